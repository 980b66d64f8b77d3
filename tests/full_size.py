"""The whole way on a full-size base, as a person types it: `python -m tests.full_size FOLDER` (6 GB, half an hour).

A base of Stable Diffusion 1.5's sizes with random weights, as a single file and as a diffusers folder; photographs of
scikit-image, prepared and annotated; and with either base three steps at 256 pixels, killed after the first or the
second, resumed, and two pictures sampled. Both runs must end with the same weights in every bit. Every command is
printed with its seconds, those of the processor, and the most memory that it held.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import skimage
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from scedit_cli.models.single_file import CONFIGS, tokenizer
from tests.original_layout import save_original

PHOTOS = {
    "astronaut.png": "an astronaut in an orange suit in front of a flag",
    "chelsea.png": "a ginger cat that looks up",
    "coffee.png": "a cup of coffee on a wooden table",
    "rocket.jpg": "a rocket on its launch pad at night",
    "hubble_deep_field.jpg": "hundreds of galaxies before a black sky",
    "motorcycle_left.png": "a motorcycle in a workshop",
}
STEPS = 3
SETS = [
    f"train.steps={STEPS}", "train.batch_size=2", "train.micro_batch_size=1", "train.warmup=0", "train.log_every=1",
    "train.checkpoint_every=1", "samples.every=0", "validation.pictures=1", "validation.timesteps=1",
]  # fmt: skip


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    photos = Path("photos")
    photos.mkdir()
    for name, caption in PHOTOS.items():
        shutil.copy(Path(skimage.__file__).parent / "data" / name, photos)
        (photos / name).with_suffix(".txt").write_text(caption)
    build()
    run("prepare", "photos", "--out", "data", "--size", "256")
    run("annotate", "data", "--cond", "canny")
    learn("base.safetensors", "run-file", killed_after=1)
    learn("base", "run-folder", killed_after=2)
    one, other = (load_file(f"{run}/tuner.safetensors") for run in ("run-file", "run-folder"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert any(weight.any() for name, weight in one.items() if "up" in name), "they have learned something"
    print("the tuners of the file's run and of the folder's are the same in every bit")


def learn(base: str, out: str, killed_after: int) -> None:
    """Trains on `base`, killed after that step and resumed, and samples an image."""
    sets = [f"base.model={base}", "data.path=data", *SETS]
    train = ("train", "--recipe", "sd15-canny.toml", *(word for each in sets for word in ("--set", each)), "--out", out)
    run(*train, kill_at=Path(out) / f"checkpoints/step-{killed_after:06d}")
    result = run(*train, "--resume")
    assert (result["resumed_at"], result["steps"]) == (killed_after, STEPS), result
    told = {name: result[name] for name in ("loss", "validation_loss", "images_per_second", "waiting_share")}
    print(f"  {out}: {told}", flush=True)
    picture = run(
        "generate", "--base", base, "--tuner", f"{out}/tuner.safetensors", "--cond",
        "canny=data/conditions/canny/000000.png", "--prompt", PHOTOS["astronaut.png"], "--width", "256", "--height",
        "256", "--steps", "3", "--dtype", "bf16", "--out", f"{out}.png",
    )["images"][0]  # fmt: skip
    assert Path(picture["path"]).is_file()


def build() -> None:
    """`base/` and `base.safetensors`, in float16."""
    began = time.perf_counter()
    pipeline = random_pipeline().to(dtype=torch.float16)
    pipeline.save_pretrained("base")
    save_original(pipeline, "sd15", Path("base.safetensors"))
    print(f"{time.perf_counter() - began:.0f} s: the base, as a folder and as a single file", flush=True)


def random_pipeline() -> StableDiffusionPipeline:
    """Stable Diffusion 1.5 by the package's own configuration, with random weights in float32."""

    def config(part: str) -> dict:
        return json.loads((CONFIGS / "sd15" / f"{part}.json").read_text())

    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_config(config("vae")),
        text_encoder=CLIPTextModel(CLIPTextConfig.from_dict(config("text_encoder"))),
        tokenizer=tokenizer(),
        unet=UNet2DConditionModel.from_config(config("unet")),
        scheduler=PNDMScheduler.from_config(config("scheduler")),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    assert sum(weight.numel() for weight in pipeline.unet.parameters()) == 859_520_964
    return pipeline


def run(*words: str, kill_at: Path | None = None) -> dict:
    """What `scedit ... --json` writes; {} where it is killed as soon as `kill_at` exists."""
    began, peak, busy = time.perf_counter(), 0, 0.0
    with open("stderr.txt", "w") as told:
        command = [sys.executable, "-m", "scedit_cli", *words, "--json"]
        process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=told, text=True)
        while process.poll() is None:
            peak, busy = max(peak, process.memory_info().rss), sum(process.cpu_times()[:2])
            if kill_at and kill_at.exists():
                process.kill()
                break
            time.sleep(0.2)
        out, _ = process.communicate()
    seconds = time.perf_counter() - began
    end = f"killed after {kill_at.name}" if kill_at else "done"
    cost = f"{seconds:.0f} s ({busy:.0f} s of processor), {peak / 2**30:.1f} GiB"
    print(f"{cost}, {end}: scedit {shlex.join(words)}", flush=True)
    if kill_at:
        assert kill_at.exists(), Path("stderr.txt").read_text()[-2000:]
        return {}
    assert process.returncode == 0, out + Path("stderr.txt").read_text()[-2000:]
    return json.loads(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
