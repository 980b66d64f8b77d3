from __future__ import annotations

import pytest
import torch

from scedit_cli.models.base import load_base
from scedit_cli.models.fingerprint import fingerprint, own_weights
from tests import tiny


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_fused_projections_leave_the_fingerprint_as_it_was(family):
    unet = load_base(tiny.pipeline_folder(family)).unet
    before = fingerprint(unet)
    unet.fuse_qkv_projections()
    assert any("to_qkv" in name for name in unet.state_dict())
    assert fingerprint(unet) == before
    unet.unfuse_qkv_projections()
    assert fingerprint(unet) == before
    with torch.no_grad():
        unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight.neg_()
    assert fingerprint(unet) != before


def test_an_autoencoders_weights_too():
    vae = load_base(tiny.pipeline_folder("sd15")).vae
    names = [name for name, _ in own_weights(vae)]
    assert names == sorted(vae.state_dict())
    vae.fuse_qkv_projections()
    assert [name for name, _ in own_weights(vae)] == names
