#!/bin/sh
# datasets 5.2.0: a shuffled stream that is resumed loses the samples that its buffer held, and ends early.
#
# IterableDataset.state_dict keeps the place in the shards and not what the shuffle buffer holds. After load_state_dict
# the buffer is refilled from that place: the samples that waited in it never come in this pass, and the others come in
# another order. A training run that is resumed so does not make the steps that it would have made. torchdata's
# StatefulDataLoader stores the same state of such a dataset.
#
# Seen (120 samples, a buffer of 16, resumed after 30):
#   not interrupted: 90 more, the first [107, 207, 214, 15, 213]
#   resumed: 80 more, the first [213, 117, 215, 216, 18]
#   lost: 10
#
# Exits 0 while this is so, and 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datasets==5.2.0 numpy==2.4.0 >&2
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
from datasets import IterableDataset


def samples(shards):
    for shard in shards:
        for number in range(40):
            yield {"key": shard * 100 + number}


def stream():
    return IterableDataset.from_generator(samples, gen_kwargs={"shards": [0, 1, 2]}).shuffle(seed=1, buffer_size=16)


begun = stream()
rows = iter(begun)
for _ in range(30):
    next(rows)
state = begun.state_dict()
whole = [row["key"] for row in rows]
again = stream()
again.load_state_dict(state)
resumed = [row["key"] for row in again]
print(f"not interrupted: {len(whole)} more, the first {whole[:5]}")
print(f"resumed: {len(resumed)} more, the first {resumed[:5]}")
print("lost:", len(set(whole) - set(resumed)))
raise SystemExit(set(whole) <= set(resumed) or whole == resumed)
PYTHON
