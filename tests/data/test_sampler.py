"""The sampler: every picture once an epoch, and the same batches again after a resume at any step."""

from __future__ import annotations

from itertools import chain, islice

import pytest

from scedit_cli.data.sampler import StatefulSampler
from scedit_cli.errors import SceditError


def taken(sampler: StatefulSampler, count: int) -> list[list[int]]:
    return list(islice(sampler, count))


@pytest.mark.parametrize(("count", "batch_size"), [(10, 5), (10, 3), (3, 8), (1, 1)])
def test_an_epoch_holds_every_index_once_and_batches_are_full(count, batch_size):
    batches = taken(StatefulSampler(count, batch_size, seed=1), 4 * count)
    assert {len(batch) for batch in batches} == {batch_size}
    stream = list(chain(*batches))
    epochs = [stream[at : at + count] for at in range(0, len(stream), count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs[:4])


def test_epochs_and_seeds_shuffle_differently():
    stream = list(chain(*taken(StatefulSampler(50, 10, 0), 10)))
    first, second = stream[:50], stream[50:]
    assert first != second
    assert first != list(chain(*taken(StatefulSampler(50, 10, 1), 5)))
    assert first == list(chain(*taken(StatefulSampler(50, 10, 0), 5)))


@pytest.mark.parametrize("stop", [0, 1, 4, 7, 20])
def test_resuming_goes_on_with_the_next_batch(stop):
    whole = taken(StatefulSampler(11, 3, seed=5), 30)
    before, after = StatefulSampler(11, 3, seed=5), StatefulSampler(11, 3, seed=5)
    assert taken(before, stop) == whole[:stop]
    after.load_state_dict(before.state_dict())
    assert after.epoch == stop * 3 // 11
    assert taken(after, 30 - stop) == whole[stop:]


def test_a_state_of_other_data_is_refused():
    state = StatefulSampler(11, 3, seed=5).state_dict()
    with pytest.raises(SceditError, match="count was 11 and is 12, seed was 5 and is 6"):
        StatefulSampler(12, 3, seed=6).load_state_dict(state)
