"""What is encoded is what the base gives, once; and batches bring it together."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from scedit_cli.base import load_base
from scedit_cli.data.cache import cache_latents_and_text
from scedit_cli.data.dataset import open_dataset
from scedit_cli.data.hints import Hints
from scedit_cli.data.loader import batches
from scedit_cli.data.rendered import write_scenes
from scedit_cli.data.sampler import StatefulSampler
from tests import tiny


@pytest.fixture(scope="module")
def base():
    return load_base(tiny.pipeline_folder("sd15"))


@pytest.fixture
def dataset(tmp_path):
    write_scenes(tmp_path / "scenes", 5, size=64, kinds=("canny", "color"), processes=1)
    return open_dataset(tmp_path / "scenes")


@pytest.fixture
def encoded(base, monkeypatch):
    """How many pictures and captions the base has encoded."""
    counts = {"pictures": 0, "captions": 0}

    def counting(name, encode):
        def count(batch):
            counts[name] += len(batch)
            return encode(batch)

        return count

    monkeypatch.setattr(base, "encode_images", counting("pictures", base.encode_images))
    monkeypatch.setattr(base, "encode_prompts", counting("captions", base.encode_prompts))
    return counts


def pixels(path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None]


def test_the_cache_holds_what_the_base_gives(dataset, base):
    steps = []
    cache = cache_latents_and_text(dataset, base, ["canny"], on_step=lambda *step: steps.append(step))
    for index, item in enumerate(dataset.items):
        moments = base.encode_images(pixels(item.image) / 255)
        torch.testing.assert_close(cache.moments[index : index + 1], moments, atol=1e-5, rtol=1e-4)
        text = base.encode_prompts([item.text])["encoder_hidden_states"]
        torch.testing.assert_close(cache.text_of([index])["encoder_hidden_states"], text, atol=1e-5, rtol=1e-4)
        assert torch.equal(cache.hints["canny"][[index]], pixels(item.conditions["canny"]))
    empty = base.encode_prompts([""])["encoder_hidden_states"]
    torch.testing.assert_close(cache.empty_text["encoder_hidden_states"], empty, atol=1e-5, rtol=1e-4)
    captions = len({item.text for item in dataset.items}) + 1
    assert steps[-1] == (5 + captions, 5 + captions)


def test_nothing_is_encoded_twice(dataset, base, encoded):
    first = cache_latents_and_text(dataset, base)
    assert encoded["pictures"] == 5
    before = dict(encoded)
    again = cache_latents_and_text(dataset, base)
    assert encoded == before
    assert torch.equal(first.moments, again.moments)
    assert all(torch.equal(first.text[name], again.text[name]) for name in first.text)


def test_a_changed_picture_caption_or_base_is_encoded_anew(dataset, base, encoded):
    cache_latents_and_text(dataset, base)
    Image.new("RGB", (64, 64), "red").save(dataset.items[2].image)
    pictures, captions = encoded["pictures"], encoded["captions"]
    changed = cache_latents_and_text(dataset, base)
    assert (encoded["pictures"], encoded["captions"]) == (pictures + 5, captions)
    torch.testing.assert_close(changed.moments[2:3], base.encode_images(pixels(dataset.items[2].image) / 255))
    metadata = dataset.path / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace(dataset.items[0].text, "something else"))
    captions = encoded["captions"]
    cache_latents_and_text(open_dataset(dataset.path), base)
    assert encoded["captions"] > captions
    other = load_base(tiny.pipeline_folder("sd15", seed=1))
    assert not torch.equal(cache_latents_and_text(dataset, other).moments, changed.moments)


def test_a_torn_cache_file_is_made_anew(dataset, base, encoded):
    first = cache_latents_and_text(dataset, base)
    moments = first.moments.clone()
    for file in (dataset.path / "cache").iterdir():
        half = file.read_bytes()[: file.stat().st_size // 2]
        file.unlink()  # the tensors of `first` are mapped from it
        file.write_bytes(half)
    again = cache_latents_and_text(dataset, base)
    assert encoded["pictures"] == 10
    assert torch.equal(again.moments, moments)


def test_sdxl_keeps_the_pooled_text(dataset):
    cache = cache_latents_and_text(dataset, load_base(tiny.pipeline_folder("sdxl")))
    assert set(cache.text) == {"encoder_hidden_states", "text_embeds"}
    assert all(len(values) == 2 for values in cache.text_of([0, 3]).values())


def test_hints_read_from_disk_are_those_in_memory(dataset):
    paths = dataset.condition_paths("color")
    held, read = Hints(paths, (64, 64)), Hints(paths, (64, 64), in_memory=0)
    assert torch.equal(held[[3, 0, 3]], read[[3, 0, 3]])
    assert held[[3, 0]].shape == (2, 3, 64, 64)
    assert held[[3]].dtype == torch.uint8


def test_batches_follow_the_sampler_and_resume(dataset, base):
    cache = cache_latents_and_text(dataset, base, ["canny", "color"])
    sampler = StatefulSampler(len(cache), 2, seed=4)
    expected = [StatefulSampler(len(cache), 2, seed=4).batch(step) for step in range(6)]
    seen = list(islice(batches(cache, sampler), 3))
    assert sampler.state_dict()["step"] == 3  # what was made ready beyond is not counted
    resumed = StatefulSampler(len(cache), 2, seed=4)
    resumed.load_state_dict(sampler.state_dict())
    seen += islice(batches(cache, resumed), 3)
    assert [batch.indices for batch in seen] == expected
    for batch in seen:
        assert torch.equal(batch.moments, cache.moments[batch.indices])
        assert torch.equal(batch.hints["canny"], cache.hints["canny"][batch.indices] / 255)
        assert batch.hints["color"].dtype == torch.float32
        assert batch.text["encoder_hidden_states"].shape[0] == 2


def test_a_hint_that_cannot_be_read_stops_the_batches(dataset, base):
    from dataclasses import replace

    from scedit_cli.errors import SceditError

    paths = dataset.condition_paths("canny")
    cache = replace(cache_latents_and_text(dataset, base), hints={"canny": Hints(paths, (64, 64), in_memory=0)})
    paths[2].write_bytes(b"no picture")
    with pytest.raises(SceditError, match="no readable picture"):
        list(islice(batches(cache, StatefulSampler(5, 1)), 5))
