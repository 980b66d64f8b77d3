"""The sections of a recipe: every key with its type, range and default."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import tomlkit
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from scedit_cli.recipe.validation_errors import invalid, sentences
from scedit_cli.utils.errors import SceditError, shortened
from scedit_cli.utils.names import KIND

_HELD_OUT = 1_000_000_000  # scenes.HELD_OUT_SEED
_POLYNOMIAL_END = 1e-7  # diffusers' value
_LARGEST = 2**63 - 1  # the largest integer of TOML and PyTorch

Seed = Annotated[int, Field(ge=0, le=_LARGEST)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    # Strict, so that `steps = true` or `steps = "200"` is an error and not the number 1 or 200.
    # The text under a field is its description, which the command line and recipes/README.md show.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class BaseSection(_Section):
    """The frozen pipeline: the embedded "scenes", or a diffusers folder, a hub id or a single file."""

    model: str = Field("scenes", min_length=1)
    """The frozen pipeline: `scenes` (embedded), a diffusers folder, a hub id or a single .safetensors file."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    vae: str | None = Field(None, min_length=1)
    """An autoencoder in place of the base's own: a folder, a hub id or a file."""
    vae_revision: str | None = None
    """Branch, tag or commit of the autoencoder's hub id."""
    prediction: Literal["epsilon", "flow", "v_prediction"] | None = None
    """Prediction type of the base's U-Net, where its files lack it or are wrong."""
    quantize: Literal["none", "int8", "fp8", "int4", "nf4"] = "none"
    """Storage of the frozen weights: eight bits (int8, fp8) or four (int4) need torchao, nf4 needs bitsandbytes."""

    @model_validator(mode="after")
    def _revisions_are_of_something(self) -> BaseSection:
        if self.vae_revision and not self.vae:
            raise invalid("base.vae_revision", "a revision of nothing; name the autoencoder with base.vae")
        return self


_KIND = f"^{KIND}$"  # the whole of a name


class TunerSection(_Section):
    """The tuner that is trained; its sizes are those of SCEdit's sections 3.2 and 3.3."""

    kind: Literal["sc", "csc"]
    """csc: controlled by a condition image; sc: by the prompt alone."""
    condition: str | None = Field(None, pattern=_KIND)
    """Kind of the condition image, such as canny; only csc takes it."""
    conditions: list[Annotated[str, Field(pattern=_KIND)]] = []
    """Several kinds in place of one, such as `["canny", "color"]`: a bundle of tuners that are trained together."""
    down_ratio: float = Field(1.0, gt=0, le=8)
    """Hidden width of each tuner, as a share of its skip's channels."""
    hint_kernel: Literal[1, 3, 5, 7] = 1
    """Side k of the k x k convolutions that make the hint features: 1 in the paper; 3 in the authors' recipes learns
    in fewer steps."""
    hint_channels: int = Field(256, ge=8, le=4096)
    """Channels between the hint encoder's stem and its chain: 256 in the paper, 320 in the authors' SDXL recipes."""
    hint_width: float = Field(1.0, gt=0, le=8)
    """Factor on the widths of the hint encoder's stem: 1.0 in the paper, 2.0 in the authors' SDXL recipes."""
    weights: str | None = Field(None, min_length=1)
    """A tuner of these conditions and sizes to start from: a file, a folder, a hub id or a shipped tuner's name; by
    default new weights."""

    @field_validator("hint_kernel", mode="before")
    @classmethod
    def _true_is_not_1(cls, value: Any) -> Any:
        if isinstance(value, bool):  # equal to 1, even strictly
            raise invalid("tuner.hint_kernel", f"{str(value).lower()} is none of 1, 3, 5, 7")
        return value

    @model_validator(mode="after")
    def _hints_belong_to_csc(self) -> TunerSection:
        if self.kind == "csc" and not self.kinds:
            raise invalid("tuner.condition", 'missing; a csc tuner needs one, such as "canny"')
        if self.condition and self.conditions:
            raise invalid("tuner.conditions", "they take the place of tuner.condition; give one of the two")
        if twice := [kind for kind in self.conditions if self.conditions.count(kind) > 1]:
            raise invalid("tuner.conditions", f"{twice[0]} is named twice")
        if self.kind == "sc":
            for key in ("condition", "conditions", "hint_kernel", "hint_channels", "hint_width"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise invalid(f"tuner.{key}", 'an sc tuner takes no hint; leave it out, or set tuner.kind = "csc"')
        return self

    @property
    def kinds(self) -> list[str]:
        """The kinds of condition that the tuner takes; none for an SC-Tuner."""
        return [self.condition] if self.condition else list(self.conditions)


class DataSection(_Section):
    """The images to train on: a dataset folder, streamed shards, or scenes rendered for the run. The loss of an image
    is multiplied by its `weight`, a column of the metadata or a key of a sample's .json."""

    path: str | None = Field(None, min_length=1)
    """A dataset folder as `scedit prepare` writes it, or WebDataset shards; without it, scenes are rendered."""
    scenes: int = Field(2048, ge=1, le=1_000_000)
    """Number of scenes to render where no path is given."""
    seed: Seed = 0
    """Seed of the first rendered scene."""
    look: Literal["plain", "pastel"] = "plain"
    """Style in which scenes are drawn."""
    caption_dropout: Share = 0.1
    """Share of captions left empty at each step, which classifier-free guidance needs."""
    hint_dropout: Share | dict[str, Share] = 0.0
    """Share of hints set to black at each step, each condition by itself, or shares by kind, such as `{canny = 0.5}`;
    only csc takes it."""
    make: list[str] = []
    """Kinds of condition made from the images while training instead of read, such as `["canny"]`."""
    params: list[str] = []
    """Settings for `make`, such as `["canny.low=50..150"]`; ranges are drawn again for every image and step."""
    masked_loss: bool = False
    """Weigh each image's loss pixel by pixel with its `mask` image: white counts, black does not."""
    size: list[Annotated[int, Field(ge=8, le=8192)]] | None = Field(None, min_length=2, max_length=2)
    """Width and height that streamed images are cut to; by default the base's own."""
    columns: list[str] = []
    """Names of image, text and condition in streamed samples, such as `["image=jpg", "text=caption"]`."""
    upscale: bool = False
    """Enlarge streamed images that are smaller than `size` instead of leaving them out."""
    shuffle: int = Field(1000, ge=0, le=1_000_000)
    """Number of streamed samples shuffled together; 0 shuffles only the order of the shards."""
    unusable: Share = 0.5
    """Share of streamed samples that may be left out as too small or unreadable; above it the run ends."""
    workers: int = Field(4, ge=1, le=256)
    """Threads per process that read and resize streamed images."""

    @field_validator("hint_dropout", mode="before")
    @classmethod
    def _is_a_share(cls, value: Any) -> Any:
        for each in value.values() if isinstance(value, dict) else [value]:
            if isinstance(each, bool) or not isinstance(each, int | float) or not 0 <= each <= 1:
                raise invalid("data.hint_dropout", f"{shortened(repr(each))} is no share from 0 to 1")
        return value

    def hint_dropout_of(self, kind: str) -> float:
        """Return the share of hints of this kind that are set to black."""
        return self.hint_dropout.get(kind, 0.0) if isinstance(self.hint_dropout, dict) else self.hint_dropout

    @model_validator(mode="after")
    def _held_out_scenes_stay_unseen(self) -> DataSection:
        if self.path is None and self.seed + self.scenes > _HELD_OUT:
            raise invalid("data.seed", f"scenes from {_HELD_OUT} on are for measuring; take a smaller seed")
        return self

    @model_validator(mode="after")
    def _columns_are_named(self) -> DataSection:
        for column in self.columns:
            if not all(column.partition("=")):
                raise invalid("data.columns", f'{column} names nothing; write them as ["image=jpg", "text=caption"]')
        return self


class TrainSection(_Section):
    """The optimisation of the noise-prediction loss."""

    steps: int = Field(600, ge=1, le=10_000_000)
    """Number of optimizer steps."""
    batch_size: int = Field(16, ge=1, le=65536)
    """Images per step, over all processes."""
    micro_batch_size: int = Field(0, ge=0, le=4096)
    """Images computed at once in a process, while gradients add up to save memory; 0: its whole share."""
    optimizer: Literal["adamw", "adamw-8bit", "prodigy", "schedule-free", "adafactor"] = "adamw"
    """Optimizer of the tuner's weights."""
    optimizer_options: dict[str, bool | int | float | str | list[float]] = {}
    """Further arguments of the optimizer, such as `{betas = [0.9, 0.99]}`."""
    learning_rate: float = Field(1e-3, gt=0, le=1)
    """Peak learning rate; use 1.0 with prodigy."""
    weight_decay: Share = 0.01
    """Weight decay of the optimizer."""
    warmup: int = Field(0, ge=0, le=1_000_000)
    """Steps of linear rise to the learning rate."""
    schedule: Literal["constant", "linear", "cosine", "cosine-restarts", "polynomial"] = "constant"
    """Course of the learning rate after the warm-up."""
    schedule_cycles: int = Field(1, ge=1, le=1000)
    """Number of cycles of cosine-restarts."""
    schedule_power: float = Field(1.0, gt=0, le=10)
    """Exponent of polynomial."""
    seed: Seed = 0
    """Seed of weights, order, noise and dropout."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the frozen base; auto: bf16, or fp32 on a CPU without it. The tuner is always fp32."""
    memory: Literal["plain", "lean", "checkpoint"] = "lean"
    """Tensors kept for the backward pass: all (plain), those it needs (lean), or the fewest (checkpoint)."""
    recompute: Literal["transformer", "layer", "fine"] = "layer"
    """Parts that memory = "checkpoint" computes again, from the coarsest to the finest."""
    offload: Literal["none", "encoder"] = "none"
    """Keep the encoder and the middle of the frozen U-Net in the host's memory, from where they visit an accelerator
    block by block; the backward pass does not need them."""
    tf32: bool = True
    """Let an accelerator multiply float32 matrices as TF32."""
    channels_last: bool = True
    """Keep images channels-last in memory; results change by rounding alone."""
    compile: bool = False
    """Compile the U-Net with torch.compile: slow to start, then faster."""
    prediction: Literal["base", "epsilon", "v_prediction", "sample", "flow"] = "base"
    """Prediction type that the U-Net learns; base: the base's own; flow: flow matching on straight lines."""
    zero_terminal_snr: bool = False
    """Make the noisiest timestep pure noise; this needs v_prediction or sample."""
    loss_weighting: Literal["none", "min-snr"] = "none"
    """Weighting of the loss by timestep."""
    snr_gamma: float = Field(5.0, gt=0, le=1000)
    """γ of min-snr (arXiv 2303.09556)."""
    noise_offset: float = Field(0.0, ge=0, le=1)
    """Standard deviation of a value added to each channel's noise; 0.05 gives darker and brighter images."""
    input_perturbation: float = Field(0.0, ge=0, le=1)
    """Share of further noise in the U-Net's input, not in its target; 0.1 is usual."""
    timesteps: Literal["uniform", "logit-normal", "shifted"] = "uniform"
    """Distribution of the timesteps; shifted prefers the noisier ones."""
    timestep_range: list[Share] = Field([0.0, 1.0], min_length=2, max_length=2)
    """Range of timesteps to draw from, where 0 is clean and 1 is noise."""
    timestep_mean: float = Field(0.0, ge=-10, le=10)
    """Mean of logit-normal; above 0 prefers noisier timesteps."""
    timestep_deviation: float = Field(1.0, gt=0, le=10)
    """Standard deviation of logit-normal."""
    timestep_shift: float = Field(3.0, gt=0, le=100)
    """The s of shifted, t' = s·t / (1 + (s − 1)·t) for t in [0, 1]; above 1 prefers noisier timesteps."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Norm that gradients are clipped to; 0: no clipping."""
    max_skipped: int = Field(20, ge=0)
    """Steps in a row that fp16 may skip for values that are not finite; above it the run ends."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Decay of the moving average of the weights, such as 0.9999, reached by a warm-up; 0: no average."""
    checkpoint_every: int = Field(200, ge=0)
    """Steps between checkpoints; 0: only one, at the end."""
    log_every: int = Field(1, ge=1)
    """Steps between lines of log.jsonl."""

    @model_validator(mode="after")
    def _options_agree(self) -> TrainSection:
        if self.timestep_range[0] >= self.timestep_range[1]:
            raise invalid("train.timestep_range", "the first must be the smaller, as in [0.0, 1.0]")
        if self.zero_terminal_snr and self.prediction == "epsilon":
            raise invalid("train.zero_terminal_snr", 'noise alone tells nothing of epsilon; learn "v_prediction"')
        if self.zero_terminal_snr and self.prediction == "flow":
            raise invalid("train.zero_terminal_snr", "flow matching ends at noise alone anyway; leave it out")
        if self.schedule == "polynomial" and self.learning_rate <= _POLYNOMIAL_END:
            raise invalid("train.learning_rate", f"a polynomial schedule ends at {_POLYNOMIAL_END}; take a higher one")
        for option, key in (("lr", "learning_rate"), ("weight_decay", "weight_decay")):
            if option in self.optimizer_options:
                raise invalid("train.optimizer_options", f"{option} is what train.{key} sets")
        if self.offload != "none" and self.compile:
            raise invalid("train.offload", "a compiled U-Net's weights stay in place; leave train.compile out")
        if self.optimizer == "schedule-free":
            if self.schedule != "constant":
                raise invalid("train.schedule", 'schedule-free needs none; leave it "constant"')
            if self.ema_decay:
                raise invalid("train.ema_decay", "schedule-free averages the weights itself; leave it 0")
        return self


class CheckpointsSection(_Section):
    """The checkpoints that a run can resume from."""

    keep: int = Field(2, ge=1, le=1000)
    """Number of the newest checkpoints to keep."""
    best: bool = False
    """Keep the tuner with the highest control score of `validation.metrics` as best.safetensors."""


class SamplesSection(_Section):
    """The sample grids drawn while training, with fixed seeds."""

    every: int = Field(200, ge=0)
    """Steps between sample grids; 0: none."""
    count: int = Field(4, ge=1, le=64)
    """Rows of a grid."""
    seed: Seed = 0
    """Seed of the grid's noise."""
    steps: int = Field(20, ge=1, le=1000)
    """Denoising steps."""
    guidance: float = Field(4.0, ge=0, le=100)
    """Classifier-free guidance scale."""
    control_guidance: float = Field(1.0, ge=1, le=100)
    """Guidance scale of the condition images, up to `guidance`; 1: none."""
    score: bool = True
    """Measure the control score of each grid, if its annotator needs no weights."""
    prompts: list[str] | None = Field(None, min_length=1)
    """Prompts of the grid; by default the images' own captions."""

    @model_validator(mode="after")
    def _hints_are_guided_as_the_prompt_at_most(self) -> SamplesSection:
        if self.control_guidance > max(self.guidance, 1):
            told = f"{self.control_guidance:g}, above samples.guidance, which is {self.guidance:g}"
            raise invalid("samples.control_guidance", told)
        return self


class ValidationSection(_Section):
    """The loss on held-out images at fixed noise and timesteps, comparable between steps and runs."""

    pictures: int | None = Field(None, ge=0, le=1_000_000)
    """Number of images held out of training for validation; 0: none; by default a tenth of the images, at most 32."""
    every: int = Field(200, ge=1)
    """Steps between validations."""
    timesteps: int = Field(4, ge=1, le=1000)
    """Timesteps measured for each image, spread evenly."""
    seed: Seed = 0
    """Seed of the choice of images and of their noise."""
    metrics: bool = False
    """Measure the control score on the held-out images too, sampled as `samples` says, and draw its curve."""
    patience: int = Field(0, ge=0, le=1_000_000)
    """Measures of the control score without a better one after which the run ends; 0: it makes all its steps."""


class TrackingSection(_Section):
    """The trackers that receive the figures beside log.jsonl, through accelerate."""

    to: list[Literal["tensorboard", "wandb"]] = []
    """Trackers that receive the figures beside log.jsonl."""
    project: str = Field("scedit", min_length=1)
    """Project name of the trackers."""


class ScoreSection(_Section):
    """The control score at the end of a run on the embedded base that trains on rendered scenes."""

    scenes: int = Field(32, ge=0, le=100_000)
    """Number of held-out scenes for the control score at the end; 0: no score."""


class Recipe(_Section):
    """A whole, checked recipe. `name` is its file's stem, after which runs are named."""

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
            raise invalid("data.path", f"missing; the base {said} needs a dataset folder to learn from")
        return self

    @model_validator(mode="after")
    def _hints_are_dropped_where_there_are_some(self) -> Recipe:
        if self.data.hint_dropout and self.tuner.kind == "sc":
            raise invalid("data.hint_dropout", "an sc tuner takes no hint; leave it 0")
        if isinstance(self.data.hint_dropout, dict):
            for kind in self.data.hint_dropout:
                if kind not in self.tuner.kinds:
                    takes = ", ".join(self.tuner.kinds)
                    raise invalid("data.hint_dropout", f"{kind} is no condition of the tuner, which takes {takes}")
        if self.data.masked_loss and self.data.path is None:
            raise invalid("data.masked_loss", "rendered scenes have no masks; name a dataset folder with data.path")
        return self

    @model_validator(mode="after")
    def _what_is_made_is_taken(self) -> Recipe:
        if self.data.make and self.tuner.kind == "sc":
            raise invalid("data.make", "an sc tuner takes no hint; leave it out")
        for kind in self.data.make:
            if kind not in self.tuner.kinds:
                takes = ", ".join(self.tuner.kinds)
                raise invalid("data.make", f"the tuner does not take {kind}; it takes {takes}")
        if self.data.params and not self.data.make:
            raise invalid("data.params", 'settings of nothing; say what is made, as in data.make = ["canny"]')
        return self

    @model_validator(mode="after")
    def _scores_are_measured(self) -> Recipe:
        if self.validation.metrics and self.tuner.kind == "sc":
            raise invalid("validation.metrics", "an sc tuner follows no condition that could be scored; leave it out")
        if self.validation.metrics and self.validation.pictures == 0:
            raise invalid("validation.metrics", "validation.pictures is 0, so no images are held out to score")
        if not self.validation.metrics:
            users = {"checkpoints.best": self.checkpoints.best, "validation.patience": self.validation.patience}
            for key, is_set in users.items():
                if is_set:
                    raise invalid(key, "it goes by the control score; add validation.metrics = true")
        return self

    @property
    def name(self) -> str:
        return self._name

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "recipe") -> Recipe:
        """Return the recipe with `values`, section -> key -> value. `source` names the recipe in messages.

        Raises:
            SceditError: there are unknown keys or bad values; one message lists all of them.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            mistakes = sentences(cls, error.errors(include_url=False))
        if len(mistakes) == 1:
            message = f"{source}: {mistakes[0]}"
        else:
            message = "\n  ".join([f"{source} has {len(mistakes)} mistakes:", *mistakes])
        raise SceditError(message, hint="`explain(SECTION.KEY)` says what a key takes")

    def to_toml(self) -> str:
        """Return the recipe with all defaults as TOML text, which load_recipe reads back to the same values."""
        text = tomlkit.dumps(self.model_dump(exclude_none=True))
        # Unprintable characters become TOML escapes, so that they survive copying from a terminal.
        return "".join(each if each.isprintable() or each == "\n" else f"\\U{ord(each):08X}" for each in text)


