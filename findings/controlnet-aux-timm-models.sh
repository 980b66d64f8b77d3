#!/bin/sh
# controlnet_aux 0.0.10: importing it replaces four models of timm, and the replacements cannot be used through timm.
#
# controlnet_aux brings a TinyViT of its own, the encoder of MobileSAM, and registers it under timm's names. After
# `import controlnet_aux`, timm.create_model("tiny_vit_5m_224") makes that encoder: no weight has the name that it has
# in timm's model, so a checkpoint does not load, and an image of 224 pixels, the size in the name, raises an error. All
# that is said is a warning at import, which is about another thing for whoever only wants edges.
#
# Seen (timm 1.0.31):
#   before: timm.models.tiny_vit, 296 tensors, an image of 224 pixels gives (1, 21841)
#   after: controlnet_aux.segment_anything.modeling.tiny_vit_sam, 302 tensors, an image of 224 pixels gives RuntimeError
#   names that both have: 0
#
# Exits 0 while this is so, and 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 torchvision==0.29.1 timm==1.0.31 controlnet_aux==0.0.10 numpy==2.4.0 >&2
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import timm
import torch


def made():
    model = timm.create_model("tiny_vit_5m_224").eval()
    try:
        with torch.no_grad():
            given = tuple(model(torch.zeros(1, 3, 224, 224)).shape)
    except RuntimeError as error:
        given = type(error).__name__
    print(f"{type(model).__module__}, {len(model.state_dict())} tensors, an image of 224 pixels gives {given}")
    return given, set(model.state_dict())


given, names = made()
import controlnet_aux  # noqa: E402, F401

replaced, others = made()
print("names that both have:", len(names & others))
assert isinstance(given, tuple) and replaced == "RuntimeError" and not names & others
PYTHON
