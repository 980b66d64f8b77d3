"""ComfyUI's nodes give what `attach` gives, in ComfyUI's calling order."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scedit_cli import Bundle, attach, conditions, load_tuner, save_tuner
from scedit_cli.exporting.comfyui import WORKFLOW, node_package
from tests.exporting.comfyui_harness import V_PREDICTION, Model, Patcher, nodes_in
from tests.exporting.models import csc, drawn, sc, shades, texts, unet_of

FAMILIES = ("sd15", "sd21", "sdxl")
SIGMA = 3.0


@pytest.fixture
def nodes(tmp_path):
    """Writes the package for these tuners and imports it: nodes(tuner)."""

    def write(tuner) -> Nodes:
        folder = tmp_path / "custom_nodes" / "scedit"
        folder.mkdir(parents=True)
        node_package(tuner).write(folder)
        return Nodes(folder)

    return write


class Nodes:
    """The package's nodes, called as ComfyUI's graph calls them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.package = folder, nodes_in(folder)

    def load(self, name: str):
        node = self.package.NODE_CLASS_MAPPINGS["LoadSCEditTuner"]()
        return getattr(node, node.FUNCTION)(name)[0]

    def apply(self, model, tuner: str, strength: float = 1.0, start: float = 0.0, end: float = 1.0, **optional):
        node = self.package.NODE_CLASS_MAPPINGS["ApplySCEdit"]()
        loaded = self.load(f"{tuner}.safetensors")
        (applied,) = getattr(node, node.FUNCTION)(model, loaded, strength, start, end, **optional)
        return applied


def as_image(hint: Tensor) -> Tensor:
    return hint.movedim(1, -1)


def attached(family: str, tuners, scales, x: Tensor, text: dict, hints=None, regions=None) -> Tensor:
    with torch.no_grad(), attach(unet_of(family), tuners, scales) as edits:
        edits.set_hints(hints)
        edits.set_regions(regions)
        return unet_of(family)(x, SIGMA, **text).sample


def near(found: Tensor, expected: Tensor, **bounds) -> None:
    torch.testing.assert_close(found, expected, **{"rtol": 0, "atol": 1e-5, **bounds})


@pytest.mark.parametrize("size", [(8, 8), (7, 11), (12, 9)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_stacked_tuners_give_what_attach_gives(nodes, family, size):
    """SC- and two CSC-Tuners, odd sizes, both halves of a batch of two, a scale of the bundle's own, a mask."""
    tuners = [sc(family), csc(family, "canny"), csc(family, "depth", seed=3, hint_kernel=3, down_ratio=0.5)]
    package = nodes(Bundle(tuners, [1.0, 0.5, 1.0]))
    x, height, width = drawn(2, 4, *size), 8 * size[0], 8 * size[1]
    canny, depth, mask = shades(2, 3, height, width), shades(1, 3, height, width, seed=8), shades(1, 1, height, width)
    prompt, empty = texts(family, 2), texts(family, 2, seed=20)

    bare = Patcher(Model(unet_of(family)))
    model = package.apply(bare, "style", 0.8)
    model = package.apply(model, "canny", 0.6, hint=as_image(canny), mask=mask[:, 0])
    model = package.apply(model, "depth", -1.5, hint=as_image(depth))
    found = model.step(x, SIGMA, [prompt, empty])
    hints = {"canny": canny, "depth": depth}
    for output, text in zip(found, (prompt, empty), strict=True):
        expected = attached(family, tuners, [0.8, 0.3, -1.5], x, text, hints, {"canny": mask})
        near(output, expected)
        assert (output - bare.step(x, SIGMA, [text])[0]).abs().max() > 0.01
    one_by_one = model.step(x, SIGMA, [prompt, empty], chunks=1)
    near(torch.cat(one_by_one), torch.cat(found))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(nodes, dtype):
    tuner, hint, x = csc("sd15", "canny"), shades(1, 3, 64, 64), drawn(1, 4, 8, 8).to(dtype)
    unet, text = unet_of("sd15").to(dtype), {name: each.to(dtype) for name, each in texts("sd15", 1).items()}
    try:
        (found,) = nodes(tuner).apply(Patcher(Model(unet)), "canny", hint=as_image(hint)).step(x, SIGMA, [text])
        expected = attached("sd15", tuner.to(dtype), None, x, text, [hint])
    finally:
        unet.to(torch.float32)
    assert found.dtype == dtype
    assert torch.equal(found, expected)


def test_strength_0_leaves_every_bit_and_clones_leave_other_branches_alone(nodes):
    package, x, text = nodes(Bundle([sc("sd15"), csc("sd15", "canny")])), drawn(1, 4, 8, 8), texts("sd15", 1)
    bare = Patcher(Model(unet_of("sd15")))
    (before,) = bare.step(x, SIGMA, [text])
    off = package.apply(package.apply(bare, "canny", 0.0), "style", 0.0)
    assert torch.equal(off.step(x, SIGMA, [text])[0], before)

    style = package.apply(bare, "style")
    (alone,) = style.step(x, SIGMA, [text])
    both = package.apply(style, "canny", hint=shades(1, 64, 64, 3))
    assert not torch.equal(both.step(x, SIGMA, [text])[0], alone)
    assert torch.equal(style.step(x, SIGMA, [text])[0], alone)
    assert torch.equal(bare.step(x, SIGMA, [text])[0], before)
    assert (
        both.clone().model_options["transformer_options"]["patches"]["output_block_patch"][0]
        is (both.model_options["transformer_options"]["patches"]["output_block_patch"][0])
    )


def test_an_edit_of_nothing_keeps_negative_zeros(nodes):
    tuner = csc("sd15", "canny")
    with torch.no_grad():
        for parameter in tuner.parameters():
            parameter.zero_()
    model = nodes(tuner).apply(Patcher(Model(unet_of("sd15"))), "canny", hint=torch.zeros(1, 64, 64, 3))
    skip = torch.tensor([0.0, -0.0, 1.5, -2.0] * 2).view(1, 8, 1, 1)
    seen = []
    patches = model.model_options["transformer_options"]["patches"]["output_block_patch"]
    model.model._apply_model = lambda x, t, a, b, c, options, **conds: (
        seen.append(patches[0](None, skip, {**options, "block": ("output", 11)})[1]) or x
    )
    model.step(drawn(1, 4, 1, 1), SIGMA, [texts("sd15", 1)])
    assert torch.equal(seen[0].view(torch.int32), skip.view(torch.int32))


def test_it_acts_between_start_and_end(nodes):
    package, x, text = nodes(sc("sd15")), drawn(1, 4, 8, 8), texts("sd15", 1)
    bare = Patcher(Model(unet_of("sd15")))
    model = package.apply(bare, "style", start=0.25, end=0.75)
    acts = []
    for percent in (0.1, 0.24, 0.26, 0.5, 0.74, 0.76, 0.9):
        sigma = bare.model.model_sampling.percent_to_sigma(percent)
        acts.append(not torch.equal(model.step(x, sigma, [text])[0], bare.step(x, sigma, [text])[0]))
    assert acts == [False, False, True, True, True, False, False]
    with pytest.raises(ValueError, match="start_percent 0.8 is after end_percent 0.2"):
        package.apply(bare, "style", start=0.8, end=0.2)


def test_a_hint_is_encoded_once_for_all_steps_and_halves(nodes):
    package, x, text = nodes(csc("sd15", "canny")), drawn(2, 4, 8, 8), texts("sd15", 2)
    model = package.apply(Patcher(Model(unet_of("sd15"))), "canny", hint=shades(2, 64, 64, 3))
    (edits,) = model.model_options["transformer_options"]["patches"]["output_block_patch"]
    tuner, encoded = edits.applied[0].tuner, []
    encode = tuner.encode
    tuner.encode = lambda weights, hints, strides: encoded.append(len(hints)) or encode(weights, hints, strides)
    for sigma in (9.0, 3.0, 1.0):
        model.step(x, sigma, [text, text])
        model.step(x, sigma, [text, text], chunks=1)
    assert encoded == [2]
    model.cleanup()
    model.step(x, SIGMA, [text, text])
    assert encoded == [2, 2]


def test_hints_of_another_size_are_cropped_and_resized(nodes):
    """A picture twice as large and wider; a batch of latents takes the hints in turn."""
    tuner = csc("sd15", "canny")
    model, x = Patcher(Model(unet_of("sd15"))), drawn(4, 4, 8, 8)
    small = shades(2, 3, 64, 64)
    large = torch.full((2, 3, 128, 192), 0.5)
    large[..., 32:160] = small.repeat_interleave(2, -1).repeat_interleave(2, -2)
    near(torch.nn.functional.avg_pool2d(large[..., 32:160], 2), small)
    text = texts("sd15", 4)
    package = nodes(tuner)
    (found,) = package.apply(model, "canny", hint=as_image(large)).step(x, SIGMA, [text])
    near(found, attached("sd15", tuner, None, x, text, [small.repeat(2, 1, 1, 1)]), atol=0.3)  # bicubic, not the mean
    (exact,) = package.apply(model, "canny", hint=as_image(small)).step(x, SIGMA, [text])
    near(exact, attached("sd15", tuner, None, x, text, [small.repeat(2, 1, 1, 1)]))
    assert (found - exact).abs().max() < 0.5 * (exact - model.step(x, SIGMA, [text])[0]).abs().max()


def test_class_colours_are_not_blended(nodes):
    package = nodes(csc("sd15", "seg"))
    hints = package.package.nodes.as_hint.__globals__["as_hint"].__module__
    module = sys.modules[hints]
    labels = shades(1, 3, 10, 10).round()
    tile = module.Tile(0, 0, 0, 8, 8, (8, 8))
    assert set(module.hint_for(labels, tile, "seg").unique().tolist()) <= {0.0, 1.0}
    assert not set(module.hint_for(labels, tile, "depth").unique().tolist()) <= {0.0, 1.0}
    assert module._LABELS == tuple(kind for kind in conditions.KINDS if conditions.find(kind).labels)


def test_tiles_see_their_part_of_hint_and_mask(nodes):
    """Regional prompts and tiled samplers call the U-Net on parts of the latents, in one batch or one by one."""
    tuner, x, text = csc("sd15", "canny"), drawn(2, 4, 16, 24), texts("sd15", 2)
    hint, mask = shades(2, 3, 128, 192), shades(1, 1, 128, 192)
    model = nodes(tuner).apply(Patcher(Model(unet_of("sd15"))), "canny", hint=as_image(hint), mask=mask[:, 0])
    areas = [(8, 16, 0, 0), (8, 16, 8, 8), (8, 16, 3, 5)]
    for chunks in (1, 3):
        for output, (h, w, top, left) in zip(model.step(x, SIGMA, [text] * 3, areas, chunks), areas, strict=True):
            cut = (..., slice(8 * top, 8 * (top + h)), slice(8 * left, 8 * (left + w)))
            seen = x[..., top : top + h, left : left + w]
            near(output, attached("sd15", tuner, None, seen, text, [hint[cut]], [mask[cut]]))


def test_hints_with_alpha(nodes):
    tuner = csc("sd15", "inpaint", in_channels=4)
    package, model = nodes(tuner), Patcher(Model(unet_of("sd15")))
    x, text, hint = drawn(1, 4, 8, 8), texts("sd15", 1), shades(1, 4, 64, 64)
    hint[:, 3:] = hint[:, 3:].round()
    black = torch.cat((hint[:, :3] * hint[:, 3:], hint[:, 3:]), 1)
    (found,) = package.apply(model, "inpaint", hint=as_image(hint)).step(x, SIGMA, [text])
    near(found, attached("sd15", tuner, None, x, text, [black]))
    with pytest.raises(ValueError, match="takes an image of 4 channels, and the hint has 3; Join Image with Alpha"):
        package.apply(model, "inpaint", hint=as_image(hint[:, :3]))


def test_the_box_says_what_does_not_fit(nodes):
    package = nodes(Bundle([sc("sd15"), csc("sd15", "canny")]))
    model = Patcher(Model(unet_of("sd15")))
    with pytest.raises(ValueError, match="was trained for another base, whose skips have 8×4, 16×3, 32×5 channels"):
        package.apply(Patcher(Model(unet_of("sdxl"))), "style")
    with pytest.raises(ValueError, match=r"canny.safetensors \(canny\) has no hint: connect a canny image"):
        package.apply(model, "canny")
    with pytest.raises(ValueError, match="takes no hint"):
        package.apply(model, "style", hint=shades(1, 64, 64, 3))
    with pytest.raises(ValueError, match="the tuner lost.safetensors is not there"):
        package.apply(model, "lost")
    transformer = Patcher(Model(unet_of("sd15")))
    transformer.model.model_config.unet_config = {"hidden_size": 3072}
    with pytest.raises(ValueError, match="Model has no skip connections to edit"):
        package.apply(transformer, "style")


def test_a_base_that_predicts_something_else_is_told_when_sampling(tmp_path):
    tuner = sc("sd15")
    tuner.metadata = {"prediction_type": "epsilon", "base": "sd15"}
    node_package(tuner).write(tmp_path)
    model = Nodes(tmp_path).apply(Patcher(Model(unet_of("sd15"), V_PREDICTION())), "style")
    with pytest.raises(ValueError, match="predicts epsilon .* sampled as one that predicts v_prediction"):
        model.step(drawn(1, 4, 8, 8), SIGMA, [texts("sd15", 1)])
    model.model.model_sampling = type("ModelSampling", (V_PREDICTION.__bases__[0],), {})()
    model.step(drawn(1, 4, 8, 8), SIGMA, [texts("sd15", 1)])


def test_files_are_read_strictly(nodes):
    package = nodes(Bundle([sc("sd15"), csc("sd15", "canny")]))
    place = package.folder / "tuners"
    save_tuner(Bundle([sc("sd15"), csc("sd15", "canny")]), place / "both.safetensors")
    with pytest.raises(ValueError, match="both.safetensors holds 2 tuners.*`scedit merge` writes each"):
        package.load("both.safetensors")
    save_tuner(sc("sd15"), place / "theirs.safetensors", format="scedit-pytorch")
    with pytest.raises(ValueError, match="is no tuner of the format scedit/1"):
        package.load("theirs.safetensors")
    broken = csc("sd15", "canny")
    broken.maps[3].up.bias.data[0] = float("nan")
    save_tuner(broken, place / "broken.safetensors")
    with pytest.raises(ValueError, match=r"maps.3.up.bias holds values that are not numbers"):
        package.load("broken.safetensors")
    (place / "text.safetensors").write_text("hello")
    with pytest.raises(ValueError, match="text.safetensors cannot be read"):
        package.load("text.safetensors")
    tuner = package.load("canny.safetensors")
    tensors = dict(tuner.weights)
    tensors["more"] = tensors.pop("maps.0.down.bias")
    header = load_tuner(place / "canny.safetensors").metadata
    with pytest.raises(ValueError, match="maps.0.down.bias is missing where"):
        type(tuner)("canny.safetensors", header, tensors)


def test_the_package_needs_torch_and_safetensors_alone(nodes):
    package = nodes(csc("sd15", "canny"))
    names = {file.relative_to(package.folder).as_posix() for file in package.folder.rglob("*") if file.is_file()}
    assert names - {name for name in names if "__pycache__" in name} == {
        "README.md", "__init__.py", "nodes.py", "edits.py", "hints.py", "tuners.py", "tuners/canny.safetensors",
        WORKFLOW,
    }  # fmt: skip
    imported = set()
    for file in package.folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.partition(".")[0])
    assert imported - sys.stdlib_module_names == {"torch", "safetensors", "folder_paths"}  # the last is ComfyUI's


def test_the_sample_workflow_is_one_graph_of_the_packages_tuners(nodes):
    package = nodes(Bundle([sc("sd15"), csc("sd15", "canny"), csc("sd15", "inpaint", seed=3, in_channels=4)]))
    graph = json.loads((package.folder / WORKFLOW).read_text())
    by_id = {node["id"]: node for node in graph["nodes"]}
    for link, source, output, target, place, kind in graph["links"]:
        assert link in by_id[source]["outputs"][output]["links"]
        assert by_id[source]["outputs"][output]["type"] == kind
        assert by_id[target]["inputs"][place]["link"] == link
    assert sum(len(node["inputs"]) for node in graph["nodes"]) == len(graph["links"])
    known = package.package.NODE_CLASS_MAPPINGS
    used = [node for node in graph["nodes"] if node["type"] in known]
    loaders = [node["widgets_values"][0] for node in used if node["type"] == "LoadSCEditTuner"]
    (offered, _) = known["LoadSCEditTuner"].INPUT_TYPES()["required"]["tuner"]
    assert sorted(loaders) == sorted(offered) == ["canny.safetensors", "inpaint.safetensors", "style.safetensors"]
    takes = known["ApplySCEdit"].INPUT_TYPES()
    types = {name: kind[0] for group in takes.values() for name, kind in group.items()}
    for node in used:
        if node["type"] == "ApplySCEdit":
            assert all(types[each["name"]] == each["type"] for each in node["inputs"])
            assert node["widgets_values"] == [1.0, 0.0, 1.0]
    assert "JoinImageWithAlpha" in [node["type"] for node in graph["nodes"]]
