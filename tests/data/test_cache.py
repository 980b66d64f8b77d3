"""What is encoded is what the base gives, once; and batches bring it together."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from scedit_cli.data import cache as cache_module
from scedit_cli.data.cache import cache_latents, cache_latents_and_text
from scedit_cli.data.dataset import open_dataset, row_of, write_rows
from scedit_cli.data.hints import Hints
from scedit_cli.data.loader import batches, load_batch
from scedit_cli.data.sampler import StatefulSampler
from scedit_cli.data.scenes import write_scenes
from scedit_cli.models.base import load_base
from scedit_cli.utils.errors import SceditError, WorkFailed
from tests import tiny
from tests.recorder import steps_to


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
    cache = cache_latents_and_text(dataset, base, ["canny"], reporter=steps_to(steps.append))
    for index, item in enumerate(dataset.items):
        moments = base.encode_images(pixels(item.image) / 255)
        torch.testing.assert_close(cache.moments_of([index]), moments, atol=1e-5, rtol=1e-4)
        text = base.encode_prompts([item.text])["encoder_hidden_states"]
        torch.testing.assert_close(cache.text_of([index])["encoder_hidden_states"], text, atol=1e-5, rtol=1e-4)
        assert torch.equal(cache.hints["canny"][[index]], pixels(item.conditions["canny"]))
    empty = base.encode_prompts([""])["encoder_hidden_states"]
    torch.testing.assert_close(cache.dropped_text["encoder_hidden_states"], empty, atol=1e-5, rtol=1e-4)
    captions = len({item.text for item in dataset.items}) + 1
    assert steps[-1] == (5 + captions, 5 + captions)


def test_nothing_is_encoded_twice(dataset, base, encoded):
    first = cache_latents_and_text(dataset, base)
    assert encoded["pictures"] == 5
    before = dict(encoded)
    again = cache_latents_and_text(dataset, base)
    assert encoded == before
    assert torch.equal(first.moments_of(range(5)), again.moments_of(range(5)))
    text, other = first.text_of(range(5)), again.text_of(range(5))
    assert all(torch.equal(text[name], other[name]) for name in text)


def test_a_changed_picture_caption_or_base_is_encoded_anew(dataset, base, encoded):
    cache_latents_and_text(dataset, base)
    Image.new("RGB", (64, 64), "red").save(dataset.items[2].image)
    pictures, captions = encoded["pictures"], encoded["captions"]
    changed = cache_latents_and_text(dataset, base)
    assert (encoded["pictures"], encoded["captions"]) == (pictures + 1, captions)  # what is the same stays
    torch.testing.assert_close(changed.moments_of([2]), base.encode_images(pixels(dataset.items[2].image) / 255))
    metadata = dataset.path / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace(dataset.items[0].text, "something else"))
    captions = encoded["captions"]
    cache_latents_and_text(open_dataset(dataset.path), base)
    assert encoded["captions"] == captions + 1
    other = load_base(tiny.pipeline_folder("sd15", seed=1))
    assert not torch.equal(cache_latents_and_text(dataset, other).moments_of([0]), changed.moments_of([0]))


def test_a_torn_cache_file_is_made_anew(dataset, base, encoded):
    moments = cache_latents_and_text(dataset, base).moments_of(range(5)).clone()
    for file in (dataset.path / "cache").rglob("*.safetensors"):
        half = file.read_bytes()[: file.stat().st_size // 2]
        file.unlink()
        file.write_bytes(half)
    again = cache_latents_and_text(dataset, base)
    assert encoded["pictures"] == 10
    assert torch.equal(again.moments_of(range(5)), moments)


def test_a_stopped_run_goes_on_where_it_was(dataset, base, encoded, monkeypatch):
    monkeypatch.setattr(cache_module, "PIXELS_AT_ONCE", 64 * 64)
    encode = base.encode_images

    def stop_at_the_fourth(pictures):
        if encoded["pictures"] == 3:
            raise KeyboardInterrupt
        return encode(pictures)

    monkeypatch.setattr(base, "encode_images", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        cache_latents_and_text(dataset, base)
    monkeypatch.setattr(base, "encode_images", encode)
    steps = []
    cache_latents_and_text(dataset, base, reporter=steps_to(steps.append))
    assert encoded["pictures"] == 5 and steps[0][0] == 4


def test_processes_share_the_work_and_find_it_complete(dataset, base, encoded):
    moments = cache_latents_and_text(dataset, base).moments_of(range(5)).clone()
    shutil.rmtree(dataset.path / "cache")
    encoded["pictures"], waited = 0, []
    with pytest.raises(WorkFailed, match=r"latents-.* lacks 2 of 5 entries"):  # the other one has died
        cache_latents(dataset, base, share=(0, 2), wait=lambda: waited.append(dict(encoded)))
    assert encoded["pictures"] == waited[0]["pictures"] == 3
    cache_latents(dataset, base, share=(1, 2))  # comes later, and finds the rest missing
    assert encoded["pictures"] == 5
    again = cache_latents_and_text(dataset, base)
    assert encoded["pictures"] == 5
    torch.testing.assert_close(again.moments_of(range(5)), moments, atol=1e-5, rtol=1e-4)


def test_pictures_of_several_sizes(base, tmp_path):
    sizes = [(64, 128), (64, 64), (64, 128), (128, 64)]
    for place in ("images", "conditions/canny"):
        (tmp_path / place).mkdir(parents=True)
        for index, size in enumerate(sizes):
            Image.effect_noise(size, 90 + index).convert("RGB").save(tmp_path / place / f"{index}.png")
    rows = [row_of(f"{index}.png", "noise", ("canny",)) for index in range(4)]
    rows[2] |= {"width": 64, "height": 128, "original_width": 500, "original_height": 900, "crop_top": 3}
    write_rows(tmp_path, rows)
    dataset = open_dataset(tmp_path)
    cache = cache_latents_and_text(dataset, base, ["canny"])
    assert cache.bucket_sizes == ((64, 128), (64, 64), (128, 64)) and cache.buckets.tolist() == [0, 1, 0, 2]
    assert cache.sizes[:3].tolist() == [[128, 64, 0, 0, 128, 64], [64, 64, 0, 0, 64, 64], [900, 500, 3, 0, 128, 64]]
    batch = load_batch(cache, 0, [2, 0])
    assert batch.moments.shape == (2, 8, 16, 8) and batch.hints["canny"].shape == (2, 3, 128, 64)
    assert torch.equal(batch.sizes, cache.sizes[[2, 0]])
    alone = base.encode_images(pixels(dataset.items[3].image) / 255)
    torch.testing.assert_close(cache.moments_of([3]), alone, atol=1e-5, rtol=1e-4)
    write_rows(tmp_path, [row | {"width": 64, "height": 64} for row in rows])
    Image.new("RGB", (64, 128)).save(tmp_path / "images/0.png")
    with pytest.raises(SceditError, match=r"0\.png is 64x128 pixels, not 64x64 as its line"):
        cache_latents(open_dataset(tmp_path), base)


def test_sdxl_keeps_the_pooled_text(dataset):
    cache = cache_latents_and_text(dataset, load_base(tiny.pipeline_folder("sdxl")))
    assert set(cache.dropped_text) == {"encoder_hidden_states", "text_embeds"}
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
        assert torch.equal(batch.moments, cache.moments_of(batch.indices))
        assert torch.equal(batch.sizes, torch.tensor([[64, 64, 0, 0, 64, 64]] * 2))
        assert torch.equal(batch.hints["canny"], cache.hints["canny"][batch.indices] / 255)
        assert batch.hints["color"].dtype == torch.float32
        assert batch.text["encoder_hidden_states"].shape[0] == 2


def test_a_hint_that_cannot_be_read_stops_the_batches(dataset, base):
    paths = dataset.condition_paths("canny")
    cache = replace(cache_latents_and_text(dataset, base), hints={"canny": Hints(paths, (64, 64), in_memory=0)})
    paths[2].write_bytes(b"no image")
    with pytest.raises(SceditError, match="no readable image"):
        list(islice(batches(cache, StatefulSampler(5, 1)), 5))
