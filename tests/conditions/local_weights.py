"""Random weights of every annotator's real architecture, in the layout that the loaders expect: those of
controlnet_aux in full size, those of transformers with few and narrow layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import transformers as hf
from torch import nn

from scedit_cli import scenes
from scedit_cli.conditions.detectors import detector
from scedit_cli.conditions.quiet import silent
from scedit_cli.conditions.registry import Annotator
from scedit_cli.models.loading import quiet

TOKENIZER = Path(scenes.__file__).parent / "world/base/tokenizer"
SWIN = {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "window_size": 4}


def save_weights(annotator: Annotator, folder: Path) -> Path:
    """Saves what `annotator` loads to `folder`/owner/repository; returns `folder`."""
    torch.manual_seed(0)
    with quiet():
        _save(annotator, folder)
    return folder


def _save(annotator: Annotator, folder: Path) -> None:
    for place in annotator.weights:
        repository, _, file = place.partition(":")
        into = folder / repository
        into.mkdir(parents=True, exist_ok=True)
        if file.endswith(".onnx"):
            from tests.conditions.onnx_people import save_estimator, save_finder

            (save_finder if file.startswith("yolox") else save_estimator)(into / file)
        elif file:
            torch.save(STATES[file](), into / file)
        else:
            MODELS[repository](into)


def _half(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.half() if value.is_floating_point() else value for name, value in network.state_dict().items()}


def _anime() -> nn.Module:
    norm = partial(nn.InstanceNorm2d, affine=False, track_running_stats=False)
    return detector("lineart_anime").UnetGenerator(3, 1, 8, 64, norm_layer=norm, use_dropout=False)


def _bae() -> nn.Module:
    from types import SimpleNamespace

    with silent():
        return detector("normalbae").NNET(SimpleNamespace(architecture="BN", sampling_ratio=0.4, importance_ratio=0.7))


def _staged(network: nn.Module) -> dict[str, torch.Tensor]:
    """As OpenPose's files are: without the stage in front; here one random kernel for all channels, to save room."""
    return {
        name.split(".", 1)[1]: (torch.randn(value.shape[2:] or (1,)) * 0.01).half().expand(value.shape)
        for name, value in network.state_dict().items()
    }


STATES: dict[str, Callable[[], dict]] = {
    "ControlNetHED.pth": lambda: _half(detector("hed").ControlNetHED_Apache2()),
    "table5_pidinet.pth": lambda: {
        "state_dict": {f"module.{name}": value for name, value in _half(detector("pidi").pidinet()).items()}
    },
    "sk_model.pth": lambda: _half(detector("lineart").Generator(3, 1, 3)),
    "sk_model2.pth": lambda: _half(detector("lineart").Generator(3, 1, 3)),
    "netG.pth": lambda: _half(_anime()),
    "mlsd_large_512_fp32.pth": lambda: _half(detector("mlsd.models.mbv2_mlsd_large").MobileV2_MLSD_Large()),
    "scannet.pt": lambda: {"model": {f"module.{name}": value for name, value in _half(_bae()).items()}},
    "body_pose_model.pth": lambda: _staged(detector("open_pose.model").bodypose_model()),
    "hand_pose_model.pth": lambda: _staged(detector("open_pose.model").handpose_model()),
    "facenet.pth": lambda: {
        name: (torch.randn(value.shape[2:] or (1,)) * 0.01).half().expand(value.shape)
        for name, value in detector("open_pose.face").FaceNet().state_dict().items()
    },
}


def _depth_anything(into: Path) -> None:
    backbone = hf.Dinov2Config(
        hidden_size=24, num_hidden_layers=4, num_attention_heads=2, image_size=56, patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False,
    )  # fmt: skip
    config = hf.DepthAnythingConfig(
        backbone_config=backbone, patch_size=14, reassemble_hidden_size=24, neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8, head_hidden_size=8,
    )  # fmt: skip
    hf.DepthAnythingForDepthEstimation(config).save_pretrained(into)
    size = {"height": 112, "width": 112}
    hf.DPTImageProcessor(size=size, keep_aspect_ratio=True, ensure_multiple_of=14).save_pretrained(into)


def _midas(into: Path) -> None:
    backbone = hf.BitConfig(
        embedding_size=32, hidden_sizes=[128, 256, 512, 512], depths=[1, 1, 1], layer_type="bottleneck",
        global_padding="same", embedding_dynamic_padding=True, out_features=["stage1", "stage2", "stage3"],
    )  # fmt: skip
    config = hf.DPTConfig(
        is_hybrid=True, backbone_config=backbone, backbone_featmap_shape=[1, 512, 6, 6], hidden_size=24, image_size=96,
        num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, neck_hidden_sizes=[128, 256, 24, 24],
        backbone_out_indices=[0, 1, 2, 3], reassemble_factors=[1, 1, 1, 0.5], fusion_hidden_size=8,
        readout_type="project", neck_ignore_stages=[0, 1],
    )  # fmt: skip
    model = hf.DPTForDepthEstimation(config)
    unused = "neck.fusion_stage.layers.0.residual_layer1."  # what the hub's files lack
    state = {name: value for name, value in model.state_dict().items() if not name.startswith(unused)}
    model.save_pretrained(into, state_dict=state)
    hf.DPTImageProcessor(size={"height": 96, "width": 96}).save_pretrained(into)


def _decided(model: hf.PreTrainedModel, *layers: str) -> hf.PreTrainedModel:
    """The model with larger weights in the layers that decide: untrained, all its pixels are of one class."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if any(layer in name for layer in layers):
                value.mul_(30)
    return model


def _oneformer(into: Path) -> None:
    config = hf.OneFormerConfig(
        backbone_config=hf.SwinConfig(**SWIN, out_features=["stage1", "stage2", "stage3", "stage4"]),
        num_labels=150, num_queries=10, hidden_dim=32, mask_dim=32, conv_dim=32, encoder_feedforward_dim=16,
        dim_feedforward=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2, query_dec_layers=1,
        text_encoder_width=32, text_encoder_num_layers=1, text_encoder_n_ctx=4, is_training=False,
    )  # fmt: skip
    _decided(hf.OneFormerForUniversalSegmentation(config), "class_embed", "mask_embed").save_pretrained(into)
    hf.CLIPTokenizer.from_pretrained(TOKENIZER).save_pretrained(into)
    image_processor = hf.OneFormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    image_processor.class_info_file = "ade20k_panoptic.json"  # of another repository, as the hub's files name it
    image_processor.save_pretrained(into)


def _mask2former(into: Path) -> None:
    config = hf.Mask2FormerConfig(
        backbone_config=hf.SwinConfig(**SWIN, out_features=["stage1", "stage2", "stage3", "stage4"]),
        num_labels=150, num_queries=10, hidden_dim=32, feature_size=32, mask_feature_size=32, dim_feedforward=16,
        encoder_feedforward_dim=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2,
    )  # fmt: skip
    _decided(hf.Mask2FormerForUniversalSegmentation(config), "class_predictor", "mask_embedder").save_pretrained(into)
    hf.Mask2FormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(into)


def _segformer(into: Path) -> None:
    config = hf.SegformerConfig(
        num_labels=150, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
    )  # fmt: skip
    hf.SegformerForSemanticSegmentation(config).save_pretrained(into)
    hf.SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(into)


def _sam(into: Path) -> None:
    config = hf.SamConfig(
        vision_config={
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64, "patch_size": 16,
            "output_channels": 16, "mlp_dim": 16, "global_attn_indexes": [0], "window_size": 0, "num_pos_feats": 8,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    model = hf.SamModel(config)
    with torch.no_grad():  # sure of itself, and of where its masks end: unsure ones are thrown away
        model.mask_decoder.iou_prediction_head.proj_out.bias.fill_(2)
        for each in model.mask_decoder.output_hypernetworks_mlps:
            each.proj_out.weight.mul_(1e4)
    model.save_pretrained(into)
    sizes = {"size": {"longest_edge": 64}, "mask_size": {"longest_edge": 16}}
    pads = {"pad_size": {"height": 64, "width": 64}, "mask_pad_size": {"height": 16, "width": 16}}
    hf.SamImageProcessor(**sizes, **pads).save_pretrained(into)


MODELS: dict[str, Callable[[Path], None]] = {
    "depth-anything/Depth-Anything-V2-Small-hf": _depth_anything,
    "depth-anything/Depth-Anything-V2-Base-hf": _depth_anything,
    "depth-anything/Depth-Anything-V2-Large-hf": _depth_anything,
    "Intel/dpt-hybrid-midas": _midas,
    "shi-labs/oneformer_ade20k_swin_large": _oneformer,
    "facebook/mask2former-swin-large-ade-semantic": _mask2former,
    "nvidia/segformer-b5-finetuned-ade-640-640": _segformer,
    "facebook/sam-vit-base": _sam,
}
