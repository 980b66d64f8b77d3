"""The sections of a recipe: every key with its kind, range and default."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import tomlkit
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from scedit_cli.errors import SceditError, shortened
from scedit_cli.recipe.builtin import builtin_recipes
from scedit_cli.recipe.mistakes import mistake, sentences

_HELD_OUT = 1_000_000_000  # scenes.HELD_OUT_SEED
_POLYNOMIAL_END = 1e-7  # diffusers'
_LARGEST = 2**63 - 1  # TOML's and PyTorch's largest integer

Seed = Annotated[int, Field(ge=0, le=_LARGEST)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    # Strict, so that `steps = true` or `steps = "200"` is an error and not the number 1 or 200.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class BaseSection(_Section):
    """The frozen pipeline: the embedded "scenes", or a diffusers folder, a hub id or a single file."""

    model: str = Field("scenes", min_length=1)
    revision: str | None = None  # of a hub id
    vae: str | None = Field(None, min_length=1)  # an autoencoder of one's own: a folder, a hub id or a file
    vae_revision: str | None = None  # of its hub id
    prediction: Literal["epsilon", "v_prediction"] | None = None  # the U-Net's, where its files lie or say nothing
    quantize: Literal["none", "int8", "fp8"] = "none"  # how the frozen weights are held (torchao)

    @model_validator(mode="after")
    def _revisions_are_of_something(self) -> BaseSection:
        if self.vae_revision and not self.vae:
            raise mistake("base.vae_revision", "a revision of nothing; name the autoencoder with base.vae")
        return self


class TunerSection(_Section):
    """What is trained; the sizes are those of SCEdit's sections 3.2 and 3.3."""

    kind: Literal["sc", "csc"]
    condition: str | None = Field(None, pattern=r"^[a-z][a-z0-9_-]*$")  # csc only: the kind of its condition pictures
    down_ratio: float = Field(1.0, gt=0, le=8)  # hidden width of a tuner / channels of its skip
    hint_kernel: Literal[1, 3, 5, 7] = 1
    hint_channels: int = Field(256, ge=8, le=4096)  # between the hint encoder's stem and its chain
    hint_width: float = Field(1.0, gt=0, le=8)  # factor on the widths of the stem

    @field_validator("hint_kernel", mode="before")
    @classmethod
    def _true_is_not_1(cls, value: Any) -> Any:
        if isinstance(value, bool):  # equal to 1, even strictly
            raise mistake("tuner.hint_kernel", f"{str(value).lower()} is none of 1, 3, 5, 7")
        return value

    @model_validator(mode="after")
    def _hints_belong_to_csc(self) -> TunerSection:
        if self.kind == "csc" and self.condition is None:
            raise mistake("tuner.condition", 'missing; a csc tuner needs one, such as "canny"')
        if self.kind == "sc":
            for key in ("condition", "hint_kernel", "hint_channels", "hint_width"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise mistake(f"tuner.{key}", 'an sc tuner takes no hint; leave it out, or set tuner.kind = "csc"')
        return self


class DataSection(_Section):
    """Pictures to learn from: a dataset folder, shards that are streamed, or scenes rendered for the run. A picture's
    loss counts as much as its `weight` says: a column of the metadata, or a key of a sample's .json."""

    path: str | None = Field(None, min_length=1)  # a dataset folder or WebDataset shards; left out, scenes are rendered
    scenes: int = Field(2048, ge=1, le=1_000_000)
    seed: Seed = 0  # of the first scene
    look: Literal["plain", "pastel"] = "plain"
    caption_dropout: Share = 0.1  # share of captions left empty, for classifier-free guidance
    hint_dropout: Share = 0.0  # share of hints left black; csc only
    make: list[str] = []  # kinds of condition that are made of the pictures while training, instead of read
    params: list[str] = []  # settings of those that make them, as annotate's --param takes them
    masked_loss: bool = False  # each picture's loss is weighed pixel by pixel with its `mask` picture
    size: list[Annotated[int, Field(ge=8, le=8192)]] | None = Field(None, min_length=2, max_length=2)  # streamed ones'
    columns: list[str] = []  # streamed samples' names of image, text or condition, as prepare's --columns has them
    upscale: bool = False  # streamed pictures that are smaller than `size` are made larger, instead of left out
    shuffle: int = Field(1000, ge=0, le=1_000_000)  # how many streamed samples are shuffled together; 0: shards alone
    unusable: Share = 0.5  # share of streamed samples that may be left out, small or unreadable, before the run ends
    workers: int = Field(4, ge=1, le=256)  # threads in a process that make streamed pictures ready

    @model_validator(mode="after")
    def _held_out_scenes_stay_unseen(self) -> DataSection:
        if self.path is None and self.seed + self.scenes > _HELD_OUT:
            raise mistake("data.seed", f"scenes from {_HELD_OUT} on are for measuring; take a smaller seed")
        return self

    @model_validator(mode="after")
    def _columns_are_named(self) -> DataSection:
        for column in self.columns:
            if not all(column.partition("=")):
                raise mistake("data.columns", f'{column} names nothing; write them as ["image=jpg", "text=caption"]')
        return self


class TrainSection(_Section):
    """The optimisation of the noise-prediction loss."""

    steps: int = Field(600, ge=1, le=10_000_000)
    batch_size: int = Field(16, ge=1, le=65536)  # pictures a step, over all processes
    micro_batch_size: int = Field(0, ge=0, le=4096)  # of them at once in a process, gradients added up; 0: its share
    optimizer: Literal["adamw", "adamw-8bit", "prodigy", "schedule-free", "adafactor"] = "adamw"
    optimizer_options: dict[str, bool | int | float | str | list[float]] = {}  # its further arguments
    learning_rate: float = Field(1e-3, gt=0, le=1)
    weight_decay: Share = 0.01
    warmup: int = Field(0, ge=0, le=1_000_000)  # steps of linear rise to learning_rate
    schedule: Literal["constant", "linear", "cosine", "cosine-restarts", "polynomial"] = "constant"
    schedule_cycles: int = Field(1, ge=1, le=1000)  # of cosine-restarts
    schedule_power: float = Field(1.0, gt=0, le=10)  # of polynomial
    seed: Seed = 0
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"  # of the frozen base; the tuner is always fp32
    memory: Literal["plain", "lean", "checkpoint"] = "lean"  # what is kept for the backward pass
    recompute: Literal["transformer", "layer", "fine"] = "layer"  # what memory = "checkpoint" runs again, part by part
    tf32: bool = True  # where an accelerator multiplies float32
    channels_last: bool = True  # how pictures lie in memory; no value changes
    compile: bool = False  # torch.compile on the U-Net
    prediction: Literal["base", "epsilon", "v_prediction", "sample"] = "base"  # what the U-Net learns to answer
    zero_terminal_snr: bool = False  # the noisiest timestep is noise alone
    loss_weighting: Literal["none", "min-snr"] = "none"
    snr_gamma: float = Field(5.0, gt=0, le=1000)
    noise_offset: float = Field(0.0, ge=0, le=1)  # deviation of a value added to each channel's noise
    input_perturbation: float = Field(0.0, ge=0, le=1)  # further noise in what the U-Net sees, not in its target
    timesteps: Literal["uniform", "logit-normal", "shifted"] = "uniform"
    timestep_range: list[Share] = Field([0.0, 1.0], min_length=2, max_length=2)  # 0 is clean, 1 is noise
    timestep_mean: float = Field(0.0, ge=-10, le=10)  # of logit-normal; above 0: noisier
    timestep_deviation: float = Field(1.0, gt=0, le=10)  # of logit-normal
    timestep_shift: float = Field(3.0, gt=0, le=100)  # s of t' = s·t / (1 + (s - 1)·t), t in [0, 1]; above 1: noisier
    max_grad_norm: float = Field(1.0, ge=0)  # 0: gradients are not clipped
    max_skipped: int = Field(20, ge=0)  # steps in a row that fp16 may skip for values that are not finite
    ema_decay: float = Field(0.0, ge=0, lt=1)  # 0: no moving average of the weights
    checkpoint_every: int = Field(200, ge=0)  # steps; 0: at the end alone
    log_every: int = Field(1, ge=1)  # steps

    @model_validator(mode="after")
    def _options_agree(self) -> TrainSection:
        if self.timestep_range[0] >= self.timestep_range[1]:
            raise mistake("train.timestep_range", "the first must be the smaller, as in [0.0, 1.0]")
        if self.zero_terminal_snr and self.prediction == "epsilon":
            raise mistake("train.zero_terminal_snr", 'noise alone tells nothing of epsilon; learn "v_prediction"')
        if self.schedule == "polynomial" and self.learning_rate <= _POLYNOMIAL_END:
            raise mistake("train.learning_rate", f"a polynomial schedule ends at {_POLYNOMIAL_END}; take a higher one")
        for option, key in (("lr", "learning_rate"), ("weight_decay", "weight_decay")):
            if option in self.optimizer_options:
                raise mistake("train.optimizer_options", f"{option} is what train.{key} sets")
        if self.optimizer == "schedule-free":
            if self.schedule != "constant":
                raise mistake("train.schedule", 'schedule-free needs none; leave it "constant"')
            if self.ema_decay:
                raise mistake("train.ema_decay", "schedule-free averages the weights itself; leave it 0")
        return self


class CheckpointsSection(_Section):
    """What a run can go on from."""

    keep: int = Field(2, ge=1, le=1000)  # the newest ones


class SamplesSection(_Section):
    """The fixed-seed picture grids drawn while training."""

    every: int = Field(200, ge=0)  # steps; 0: none
    count: int = Field(4, ge=1, le=64)
    seed: Seed = 0
    steps: int = Field(20, ge=1, le=1000)  # of the sampler
    guidance: float = Field(4.0, ge=0, le=100)
    score: bool = True  # the control score of the grid, where its annotator needs no weights
    prompts: list[str] | None = Field(None, min_length=1)  # left out: the captions of the pictures


class ValidationSection(_Section):
    """The loss on pictures that are held out, at fixed noise and timesteps: comparable between steps and runs."""

    pictures: int | None = Field(None, ge=0, le=1_000_000)  # held out of training; left out: a tenth, at most 32
    every: int = Field(200, ge=1)  # steps
    timesteps: int = Field(4, ge=1, le=1000)  # for each picture, spread evenly
    seed: Seed = 0  # of the choice of pictures and of the noise


class TrackingSection(_Section):
    """Where the figures go beside log.jsonl, through accelerate's trackers."""

    to: list[Literal["tensorboard", "wandb"]] = []
    project: str = Field("scedit", min_length=1)


class ScoreSection(_Section):
    """The control score at the end, of a run on the embedded base that learns from rendered scenes."""

    scenes: int = Field(32, ge=0, le=100_000)  # held-out ones; 0: no score


class Recipe(_Section):
    """A whole recipe, checked. `name` is its file's stem, after which runs are called."""

    base: BaseSection = BaseSection()
    tuner: TunerSection
    data: DataSection = DataSection()
    train: TrainSection = TrainSection()
    checkpoints: CheckpointsSection = CheckpointsSection()
    samples: SamplesSection = SamplesSection()
    validation: ValidationSection = ValidationSection()
    tracking: TrackingSection = TrackingSection()
    score: ScoreSection = ScoreSection()
    _name: str = PrivateAttr("recipe")

    @model_validator(mode="after")
    def _scenes_need_the_embedded_base(self) -> Recipe:
        if self.base.model != "scenes" and self.data.path is None:
            said = shortened(self.base.model)
            raise mistake("data.path", f"missing; the base {said} needs a dataset folder to learn from")
        return self

    @model_validator(mode="after")
    def _hints_are_dropped_where_there_are_some(self) -> Recipe:
        if self.data.hint_dropout and self.tuner.kind == "sc":
            raise mistake("data.hint_dropout", "an sc tuner takes no hint; leave it 0")
        if self.data.masked_loss and self.data.path is None:
            raise mistake("data.masked_loss", "rendered scenes have no masks; name a dataset folder with data.path")
        return self

    @model_validator(mode="after")
    def _what_is_made_is_taken(self) -> Recipe:
        if self.data.make and self.tuner.kind == "sc":
            raise mistake("data.make", "an sc tuner takes no hint; leave it out")
        for kind in self.data.make:
            if kind != self.tuner.condition:
                raise mistake("data.make", f"{kind} is made for nobody; the tuner takes {self.tuner.condition}")
        if self.data.params and not self.data.make:
            raise mistake("data.params", 'settings of nothing; say what is made, as in data.make = ["canny"]')
        return self

    @property
    def name(self) -> str:
        return self._name

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "recipe") -> Recipe:
        """Checks `values`, section -> key -> value. `source` names the recipe in messages.

        Raises:
            SceditError: every unknown key and bad value, in one message.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            mistakes = sentences(cls, error.errors(include_url=False))
        if len(mistakes) == 1:
            message = f"{source}: {mistakes[0]}"
        else:
            message = "\n  ".join([f"{source} has {len(mistakes)} mistakes:", *mistakes])
        raise SceditError(message, hint=f"every key is explained in {builtin_recipes()['canny']}")

    def to_toml(self) -> str:
        """The recipe with every default filled in, as text that load_recipe reads back to the same values."""
        text = tomlkit.dumps(self.model_dump(exclude_none=True))
        # Written as TOML has it, what a terminal would not show comes through a screen as it is.
        return "".join(each if each.isprintable() or each == "\n" else f"\\U{ord(each):08X}" for each in text)


