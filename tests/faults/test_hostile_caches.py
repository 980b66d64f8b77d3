"""Caches that come with a stranger's dataset: an entry that is not what it should be is made again, or refused."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import NamedTuple

from scedit_cli.data.cache import Cache, cache_latents_and_text
from scedit_cli.data.dataset import open_dataset
from tests.faults import tensor_files
from tests.faults.box import faults, folder_in_memory, try_each
from tests.faults.mutations import changed, damaged
from tests.faults.small import Small, load_once

SECONDS = 5.0
SHARDS, MEMORIES = 150, 50


class Damage(NamedTuple):
    file: Path
    case: tensor_files.Case

    def __str__(self) -> str:
        return f"{self.file}: {self.case}"


def test_damaged_caches(small: Small, tried) -> None:
    base, rng = load_once(small.base), random.Random(8)
    shards = sorted(path.relative_to(small.data) for path in (small.data / "cache").rglob("*.safetensors"))
    memories = sorted(path.relative_to(small.data) for path in (small.data / "cache").glob("*.json"))
    assert len({shard.parent for shard in shards}) == 2 and memories
    data = {shard: (small.data / shard).read_bytes() for shard in shards}
    cases = [Damage(shard, case) for shard in shards for case in tensor_files.attacks(data[shard])]
    cases += [Damage(shard, tensor_files.damage(data[shard], rng)) for shard in rng.choices(shards, k=SHARDS)]
    for file in rng.choices(memories, k=MEMORIES):
        text = (small.data / file).read_bytes()
        cases.append(Damage(file, tensor_files.Case("bytes", damaged(text, rng))))
        cases.append(Damage(file, tensor_files.Case("values", json.dumps(changed(json.loads(text), rng)).encode())))
    shapes = shapes_in(cache_latents_and_text(open_dataset(small.data), base, ["canny"]))
    with folder_in_memory() as memory:

        def work(damage: Damage) -> str:
            place = memory / str(os.getpid())
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(small.data, place)
            (place / damage.file).write_bytes(damage.case.data)
            cache = cache_latents_and_text(open_dataset(place), base, ["canny"])
            assert shapes_in(cache) == shapes
            return "read"

        outcomes = try_each(cases, work, SECONDS)
    tried("caches of datasets with damage", len(outcomes))
    assert faults(outcomes, SECONDS) == ""
    assert [each for each in outcomes if each.what == "fine"]


def shapes_in(cache: Cache) -> list[tuple]:
    """Type and shape of all that training reads."""
    every = list(range(len(cache)))
    read = [{"moments": cache.moments_of(every)}, cache.text_of(every), cache.dropped_text]
    return [(name, values.dtype, tuple(values.shape)) for part in read for name, values in part.items()]
