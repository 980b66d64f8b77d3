from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from scedit_cli.cli.train import settings
from scedit_cli.recipe import Recipe, load_recipe
from scedit_cli.utils.errors import SceditError
from tests.preparing import as_options

ROOT = Path(__file__).parents[2]

# A value other than the default for every key there is.
CHANGED = {
    "base.model": "some/base",
    "base.revision": "fp16",
    "base.vae": "some/vae",
    "base.vae_revision": "main",
    "base.prediction": "v_prediction",
    "base.quantize": "int8",
    "tuner.condition": None,
    "tuner.conditions": ["hed", "depth"],
    "tuner.down_ratio": 0.5,
    "tuner.hint_kernel": 3,
    "tuner.hint_channels": 320,
    "tuner.hint_width": 2.0,
    "tuner.weights": "some/tuner",
    "data.path": "some/folder",
    "data.scenes": 7,
    "data.seed": 3,
    "data.look": "pastel",
    "data.caption_dropout": 0.25,
    "data.make": ["hed"],
    "data.params": ["hed.low=50..150"],
    "data.hint_dropout": 0.5,
    "data.masked_loss": True,
    "data.size": [640, 384],
    "data.columns": ["image=jpg", "text=caption"],
    "data.upscale": True,
    "data.shuffle": 0,
    "data.unusable": 0.25,
    "data.workers": 9,
    "train.steps": 11,
    "train.batch_size": 3,
    "train.micro_batch_size": 3,
    "train.optimizer": "prodigy",
    "train.optimizer_options": {"betas": [0.9, 0.99], "decouple": True},
    "train.learning_rate": 2e-5,
    "train.weight_decay": 0.3,
    "train.warmup": 4,
    "train.schedule": "cosine-restarts",
    "train.schedule_cycles": 3,
    "train.schedule_power": 2.0,
    "train.seed": 2**62,
    "train.precision": "fp16",
    "train.memory": "checkpoint",
    "train.recompute": "fine",
    "train.offload": "encoder",
    "train.tf32": False,
    "train.channels_last": False,
    "train.compile": True,
    "train.prediction": "v_prediction",
    "train.zero_terminal_snr": True,
    "train.noise_offset": 0.05,
    "train.input_perturbation": 0.1,
    "train.loss_weighting": "min-snr",
    "train.snr_gamma": 7.5,
    "train.timesteps": "logit-normal",
    "train.timestep_range": [0.25, 0.75],
    "train.timestep_mean": -0.5,
    "train.timestep_deviation": 2.0,
    "train.timestep_shift": 1.5,
    "train.max_skipped": 3,
    "train.max_grad_norm": 0.0,
    "train.ema_decay": 0.999,
    "train.checkpoint_every": 5,
    "train.log_every": 9,
    "samples.every": 0,
    "samples.count": 2,
    "samples.seed": 8,
    "samples.steps": 6,
    "samples.guidance": 3.0,
    "samples.control_guidance": 1.5,
    "samples.prompts": ['a "red" cube', "größer"],
    "samples.score": False,
    "checkpoints.keep": 5,
    "checkpoints.best": True,
    "validation.pictures": 9,
    "validation.every": 10,
    "validation.timesteps": 2,
    "validation.seed": 4,
    "validation.metrics": True,
    "validation.patience": 3,
    "tracking.to": ["tensorboard", "wandb"],
    "tracking.project": "mine",
    "score.scenes": 0,
}

UNSETTABLE = (  # alone, or as plain text
    "base.model", "base.vae_revision", "samples.prompts", "data.make", "data.params", "data.masked_loss",
    "train.optimizer_options", "tuner.condition", "tuner.conditions", "checkpoints.best", "validation.metrics", "validation.patience",
)  # fmt: skip


def keys(recipe: Recipe) -> dict[str, object]:
    return {f"{s}.{k}": value for s, section in recipe.model_dump().items() for k, value in section.items()}


def refusal(overrides: list[str], name: str = "canny") -> SceditError:
    with pytest.raises(SceditError) as caught, as_options():
        load_recipe(name, settings(overrides))
    assert caught.value.exit_code == 2
    return caught.value


def test_a_resolved_recipe_reads_back_the_same(tmp_path: Path) -> None:
    values: dict[str, dict[str, object]] = {"tuner": {"kind": "csc"}}
    for key, value in CHANGED.items():
        section, name = key.split(".")
        values.setdefault(section, {})[name] = value
    del values["train"]["offload"]  # which a compiled U-Net does not have
    recipe = Recipe.from_dict(values)
    assert set(keys(recipe)) == {*CHANGED, "tuner.kind"}, "a key without a value in CHANGED"
    default = keys(Recipe.from_dict({"tuner": {"kind": "csc", "condition": "canny"}}))
    assert not [key for key, value in CHANGED.items() if default[key] == value]
    file = tmp_path / "again.toml"
    file.write_text(recipe.to_toml(), encoding="utf-8")
    assert load_recipe(file).model_dump() == recipe.model_dump()


def test_a_run_folders_recipe_is_called_after_the_run(tmp_path: Path) -> None:
    file = tmp_path / "runs" / "canny" / "recipe.toml"
    file.parent.mkdir(parents=True)
    file.write_text(load_recipe("canny").to_toml(), encoding="utf-8")
    assert load_recipe(file).name == "canny"


@pytest.mark.parametrize("key", [key for key in CHANGED if key not in UNSETTABLE])
def test_set_reaches_every_key(key: str) -> None:
    value = CHANGED[key]
    recipe = load_recipe("canny", settings([f"{key}={str(value).lower() if isinstance(value, bool) else value}"]))
    assert keys(recipe)[key] == CHANGED[key]


def test_texts_that_no_terminal_shows_are_read_back() -> None:
    recipe = load_recipe("canny", settings(["samples.prompts=['a\x80b\u202ec\td']"]))
    assert recipe.to_toml().replace("\n", "").isprintable()
    assert Recipe.from_dict(tomllib.loads(recipe.to_toml())).samples.prompts == ["a\x80b\u202ec\td"]


def test_set_takes_toml_and_plain_text() -> None:
    overrides = ['samples.prompts=["a", "b = c"]', "tuner.condition = hed", "train.learning_rate=1e-4"]
    recipe = load_recipe("canny", settings(overrides))
    assert recipe.samples.prompts == ["a", "b = c"]
    assert recipe.tuner.condition == "hed"
    assert recipe.train.learning_rate == 1e-4
    options = load_recipe("canny", settings(["train.optimizer_options.betas=[0.5, 0.6]"])).train.optimizer_options
    assert options == {"betas": [0.5, 0.6]}
    tables = settings(["train.optimizer_options={betas=[0.9, 0.99]}", "data.hint_dropout={canny = 0.5}"])
    recipe = load_recipe("canny", tables)
    assert recipe.train.optimizer_options == {"betas": [0.9, 0.99]} and recipe.data.hint_dropout == {"canny": 0.5}
    assert load_recipe("canny", settings(["data.path=2024-01-31"])).data.path == "2024-01-31"
    assert load_recipe("canny", settings(["train.steps=3", "train.steps=4"])).train.steps == 4


@pytest.mark.parametrize("override", ["train.steps", "steps=3", "=3", "train.=3", "train.steps.more=3"])
def test_set_wants_a_section_and_a_key(override: str) -> None:
    assert f"--set {override}" in refusal([override]).message


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.optimizer_options=3", "3 is no table, such as {name = 0.5}"),
        ("samples.prompts=3", '3 is no list, such as ["a", "b"]'),
        ("train.steps=1.5", "1.5 is no whole number"),
        ("train.learning_rate=fast", "'fast' is no number"),
        ("train.compile=5", "5 is neither true nor false"),
        ("data.path={a=1}", "expected text, not {'a': 1}"),
    ],
)
def test_values_of_another_type_are_told_in_tomls_words(override: str, told: str) -> None:
    assert refusal([override]).message == f"canny: {override.partition('=')[0]}: {told}"


def test_all_mistakes_are_told_at_once_with_a_guess() -> None:
    error = refusal(
        ["train.lerning_rate=1", "train.steps=0", "trian.steps=3", "train.scenes=3", "tuner.kind=cscc", "score.x=1"]
    )
    assert error.message.splitlines() == [
        "canny has 6 mistakes:",
        "  tuner.kind: 'cscc' is none of sc, csc; did you mean csc?",
        "  train.steps: 0 should be greater than or equal to 1",
        "  train.lerning_rate: unknown; did you mean learning_rate?",
        "  train.scenes: unknown; did you mean data.scenes?",
        "  score.x: unknown",
        "  trian: unknown; did you mean train?",
    ]
    assert error.hint == "scedit train --explain SECTION.KEY says what a key takes"


@pytest.mark.parametrize(
    "override",
    [
        "train.steps=0",
        "train.steps=1.5",
        "train.steps=true",
        'train.steps="200"',
        "train.batch_size=0",
        "train.micro_batch_size=-1",
        "train.optimizer=adam",
        "train.optimizer_options=3",
        "train.schedule_cycles=0",
        "train.schedule_power=0",
        "train.tf32=1",
        "train.prediction=v",
        "train.noise_offset=2",
        "train.input_perturbation=-1",
        "train.timestep_range=[0.5]",
        "train.timestep_range=[0.5, 0.5]",
        "train.timestep_range=[0.5, 1.5]",
        "train.timestep_mean=11",
        "train.timestep_deviation=0",
        "train.max_skipped=-1",
        "base.quantize=int2",
        "base.prediction=sample",
        "base.vae_revision=main",
        "data.hint_dropout=2",
        "checkpoints.keep=0",
        "validation.pictures=-1",
        "validation.every=0",
        "validation.timesteps=0",
        'tracking.to=["tensorbord"]',
        'tracking.to="tensorboard"',
        "samples.score=2",
        'train.optimizer_options.betas=["a"]',
        "train.learning_rate=0",
        "train.learning_rate=nan",
        "train.learning_rate=inf",
        "train.learning_rate=2",
        "train.weight_decay=-0.1",
        "train.warmup=-1",
        "train.schedule=cosin",
        "train.seed=-1",
        "train.precision=int8",
        "train.loss_weighting=snr",
        "train.snr_gamma=0",
        "train.timesteps=normal",
        "train.timestep_shift=0",
        "train.max_grad_norm=-1",
        "train.ema_decay=1",
        "train.checkpoint_every=-1",
        "train.log_every=0",
        "tuner.down_ratio=0",
        "tuner.hint_kernel=2",
        "tuner.hint_kernel=true",
        "tuner.hint_channels=1",
        "tuner.hint_width=0",
        "tuner.condition=../canny",
        "data.scenes=0",
        "data.seed=-1",
        "data.look=wireframe",
        "data.caption_dropout=1.1",
        "data.path=2024",
        "samples.every=-1",
        "samples.count=0",
        "samples.seed=-1",
        "samples.steps=0",
        "samples.guidance=-1",
        "samples.control_guidance=0.5",
        "samples.control_guidance=4.5",
        "samples.prompts=[]",
        "samples.prompts=[1]",
        "score.scenes=-1",
    ],
)
def test_values_out_of_range_are_refused_by_name(override: str) -> None:
    message = refusal([override]).message
    assert message.startswith(f"canny: {override.partition('=')[0]}") and "\n" not in message


def test_the_parts_of_a_recipe_must_agree() -> None:
    assert "tuner.condition: an sc tuner takes no hint" in refusal(["tuner.kind=sc"]).message
    assert "tuner.hint_kernel: an sc tuner" in refusal(["tuner.hint_kernel=3"], "style").message
    assert "tuner.condition: missing" in refusal(["tuner.kind=csc"], "style").message
    assert "data.hint_dropout: an sc tuner" in refusal(["data.hint_dropout=0.1"], "style").message
    assert "data.masked_loss: rendered scenes" in refusal(["data.masked_loss=true"]).message
    slow = ["train.schedule=polynomial", "train.learning_rate=1e-7"]
    assert "train.learning_rate: a polynomial schedule ends at 1e-07" in refusal(slow).message
    impossible = ["train.zero_terminal_snr=true", "train.prediction=epsilon"]
    assert "train.zero_terminal_snr: noise alone" in refusal(impossible).message
    assert "train.schedule: schedule-free" in refusal(["train.optimizer=schedule-free"]).message
    averaged = ["train.optimizer=schedule-free", "train.schedule=constant", "train.ema_decay=0.9"]
    assert "train.ema_decay: schedule-free" in refusal(averaged).message
    for option, key in (("lr", "learning_rate"), ("weight_decay", "weight_decay")):
        message = refusal([f"train.optimizer_options.{option}=1.0"]).message
        assert message == f"canny: train.optimizer_options: {option} is what train.{key} sets"
    assert "data.path: missing; the base some/base needs" in refusal(["base.model=some/base"]).message


def test_what_is_made_while_training_is_what_the_tuner_takes() -> None:
    assert load_recipe("canny", settings(['data.make=["canny"]', 'data.params=["low=50..90"]'])).data.make == ["canny"]
    assert "data.make: the tuner does not take color; it takes canny" in refusal(['data.make=["color"]']).message
    assert "data.make: an sc tuner takes no hint" in refusal(['data.make=["canny"]'], "style").message
    assert "data.params: settings of nothing" in refusal(['data.params=["low=50"]']).message


def test_a_section_must_be_one(tmp_path: Path) -> None:
    file = tmp_path / "flat.toml"
    file.write_text('score = 3\n[tuner]\nkind = "sc"\n')
    assert "score: expected a section [score]" in refusal([], str(file)).message
    file.write_text("[train]\nsteps = 3\n")
    assert "tuner: missing" in refusal([], str(file)).message


def test_what_is_no_recipe(tmp_path: Path) -> None:
    assert "did you mean canny?" in refusal([], "cany.toml").message
    assert "is a folder" in refusal([], str(tmp_path)).message
    for name in (str(tmp_path / "canny.toml"), "x" * 300, "x" * 5000):  # the longest are no names to systems
        assert "there is no recipe" in refusal([], name).message
    assert "~no-such-user is nobody's home folder" in refusal([], "~no-such-user/canny.toml").message
    assert "~no-such-user is nobody's home folder" in refusal(["data.path=~no-such-user/photos"]).message
    bad = tmp_path / "bad.toml"
    bad.write_text("[train\nsteps = 3")
    assert f"{bad} is not valid TOML" in refusal([], str(bad)).message
    bad.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    assert f"{bad} is not valid TOML" in refusal([], str(bad)).message


def test_a_file_comes_before_the_built_in_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "canny.toml").write_text('[tuner]\nkind = "sc"\n')
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_recipe("canny.toml").tuner.kind == "sc"
    assert load_recipe("canny").tuner.kind == "csc"


def test_relative_paths_are_resolved_where_they_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("photos", "base", "vae", "scenes"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("canny", settings(["data.path=photos", "base.model=base", "base.vae=vae"]))
    found = (recipe.data.path, recipe.base.model, recipe.base.vae)
    assert found == tuple(str(tmp_path / name) for name in ("photos", "base", "vae"))
    assert load_recipe("canny", settings(["data.path=photos", "base.model=some/hub-id"])).base.model == "some/hub-id"
    assert load_recipe("canny").base.model == "scenes", "the embedded base, not the folder of that name"
    assert load_recipe("canny", settings(["data.path=scenes"])).data.path == str(tmp_path / "scenes")
    for letters in (300, 5000):
        assert load_recipe("canny", settings([f"data.path={'x' * letters}"])).data.path == "x" * letters


def test_what_the_scenes_say_is_said_alike() -> None:
    from scedit_cli.recipe import schema
    from scedit_cli.scenes import HELD_OUT_SEED
    from scedit_cli.scenes.render import LOOKS

    assert get_args(schema.DataSection.model_fields["look"].annotation) == LOOKS
    assert schema._HELD_OUT == HELD_OUT_SEED


def test_reading_a_recipe_imports_nothing_heavy() -> None:
    program = (
        "import sys; from scedit_cli.recipe import load_recipe; load_recipe('canny')\n"
        "heavy = ('torch', 'numpy', 'diffusers', 'transformers', 'rich', 'typer')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert answer.stdout.strip() == "[]"
