"""Build the shipped world from scratch: `python -m scedit_cli.scenes.build --work DIR`.

Every stage keeps its state in DIR and resumes from there. Seeds are fixed, but the shipped weights are not reproduced
exactly: the autoencoder's training and the U-Net's first cycle were shortened while they ran, only the U-Net's third
cycle saw more than the first 30,000 plain images, and crowded ones twice, the decoder saw 4,000 plain and 1,000 pastel
images, and the tuners were trained in two or three goes (`tuners.STEPS` is the sum), the first before the U-Net's third
cycle, the later ones from the tuner before (`tuner.weights`) and on other scenes; those of normal, inpaint and gradient
had one go, on 6,000 scenes. The shipped world was made on two cores of a server processor with bfloat16 arithmetic and
no accelerator, which had other work too: images 10 minutes, autoencoder 33, text encoder 2, reader 17, U-Net's cycles
50, 94 and 58 (the last two on one core), tuners 32, 45, 25, 33 and 25; the decoder's last stage 50 on one core without
bfloat16.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

from scedit_cli.scenes import WORLD
from scedit_cli.scenes.build import pictures
from scedit_cli.scenes.build.autoencoder import train_autoencoder
from scedit_cli.scenes.build.decoder import sharpen_decoder
from scedit_cli.scenes.build.reader import train_reader
from scedit_cli.scenes.build.text import train_text_encoder
from scedit_cli.scenes.build.tuners import STEPS, train_tuner
from scedit_cli.scenes.build.unet import moments, new_scheduler, normalise, train_unet

SCENES, TRUTHS, STYLED = 40_000, 10_000, 10_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scedit_cli.scenes.build", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for images and unfinished stages (4 GB)")
    parser.add_argument("--out", type=Path, default=WORLD, help="where the world goes (default: into the package)")
    options = parser.parse_args()
    work, out = options.work, options.out
    pictures.render_all(work, SCENES, TRUTHS, STYLED)
    vae = train_autoencoder(work, SCENES, STYLED)
    tokenizer, encoder = train_text_encoder(work, SCENES)
    reader = train_reader(work, TRUTHS, STYLED)
    kept = normalise(vae, moments(work, vae, SCENES))
    unet = train_unet(work, kept, tokenizer, encoder)
    sharpen_decoder(work, vae, reader, SCENES, STYLED)
    save_world(out, vae, tokenizer, encoder, unet, reader)
    for name in STEPS:
        train_tuner(name, work, out)


def save_world(
    out: Path,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    reader: torch.nn.Module,
) -> None:
    """Write the pipeline in diffusers' layout and the reader, as float16 safetensors."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(out / "base")
    for path in (out / "base").glob("*/config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        if "dtype" in config:  # with float16, transformers would compute in it beside a float32 U-Net
            config["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2) + "\n")
    save_file({k: v.half().contiguous() for k, v in reader.state_dict().items()}, out / "reader.safetensors")


if __name__ == "__main__":
    main()
