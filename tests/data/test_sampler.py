"""The sampler: every picture once an epoch, and the same batches again after a resume at any step."""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice

import pytest

from scedit_cli.data.sampler import StatefulSampler
from scedit_cli.utils.errors import SceditError


def taken(sampler: StatefulSampler, count: int) -> list[list[int]]:
    return list(islice(sampler, count))


def test_fewer_pictures_than_a_batch_takes_weigh_alike():
    sampler = StatefulSampler(3, 8, seed=1)
    batches = [sampler.batch(step) for step in range(3)]
    assert all(set(Counter(batch).values()) <= {2, 3} and len(batch) == 8 for batch in batches)
    assert Counter(index for batch in batches for index in batch) == {0: 8, 1: 8, 2: 8}
    sized = StatefulSampler(4, 8, seed=1, groups=[0, 1, 1, 1])
    seen = [sized.batch(step) for step in range(8)]
    assert Counter(index for batch in seen for index in batch) == {0: 16, 1: 16, 2: 16, 3: 16}
    assert all(len({index > 0 for index in batch}) == 1 for batch in seen)


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


@pytest.mark.parametrize(("batch_size", "processes"), [(5, 2), (8, 3), (3, 3)])
def test_the_shares_of_a_batch_make_up_the_batch(batch_size, processes):
    whole = taken(StatefulSampler(11, batch_size, seed=5), 9)
    shares = [taken(StatefulSampler(11, batch_size, 5, share=(i, processes)), 9) for i in range(processes)]
    assert [sum(parts, []) for parts in zip(*shares, strict=True)] == whole
    assert {len(part) for share in shares for part in share} <= {batch_size // processes, -(-batch_size // processes)}


def test_another_number_of_processes_goes_on_with_the_same_batches():
    whole = taken(StatefulSampler(11, 4, seed=5), 6)
    first = StatefulSampler(11, 4, seed=5)
    taken(first, 3)
    second = StatefulSampler(11, 4, seed=5, share=(1, 2))
    second.load_state_dict(first.state_dict())
    assert taken(second, 3) == [batch[2:] for batch in whole[3:]]


def test_chosen_indices_alone_are_given_out():
    chosen = [9, 2, 5]
    assert sorted(chain(*taken(StatefulSampler(chosen, 3, seed=0), 2))) == sorted(2 * chosen)


GROUPS = [0] * 7 + [1] * 20 + [2]


def test_batches_are_of_one_group_and_every_group_has_its_share():
    batches = taken(StatefulSampler(28, 4, seed=3, groups=GROUPS), 28)  # 4 epochs of each group
    assert all(len({GROUPS[index] for index in batch}) == 1 for batch in batches)
    counts = [list(chain(*batches)).count(index) for index in range(28)]
    assert counts == [4] * 28
    order = [GROUPS[batch[0]] for batch in batches]
    assert order != sorted(order) and order[:7] != order[7:14], "groups come in a shuffled order"


@pytest.mark.parametrize("stop", [0, 3, 17])
def test_groups_resume_too(stop):
    whole = taken(StatefulSampler(28, 4, seed=3, groups=GROUPS), 30)
    after = StatefulSampler(28, 4, seed=3, groups=GROUPS)
    after.load_state_dict(StatefulSampler(28, 4, seed=3).state_dict() | {"step": stop})
    assert taken(after, 30 - stop) == whole[stop:]


def test_other_data_is_not_gone_on_with():
    state = StatefulSampler(11, 4, data="one").state_dict()
    with pytest.raises(SceditError, match="the images, captions, condition images or weights are others"):
        StatefulSampler(11, 4, data="other").load_state_dict(state)
    with pytest.raises(SceditError, match="count was 11 and is 12$|count was 11 and is 12 "):
        StatefulSampler(12, 4, data="other").load_state_dict(state)
    older = StatefulSampler(11, 4, data="other")
    older.load_state_dict({key: value for key, value in state.items() if key != "data"} | {"step": 7})
    assert older.step == 7
