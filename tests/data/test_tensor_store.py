"""The store behind the cache: what is whole stays, what is torn is not there."""

from __future__ import annotations

import pytest
import torch

from scedit_cli.data import tensor_store
from scedit_cli.data.tensor_store import TensorStore
from scedit_cli.utils.errors import SceditError


def tensors(*values: float) -> dict[str, torch.Tensor]:
    return {"a": torch.tensor(values)[:, None].repeat(1, 3), "b": torch.tensor(values, dtype=torch.bfloat16)}


def test_entries_come_back_in_the_order_they_are_asked_for(tmp_path):
    with TensorStore(tmp_path).writer() as writer:
        writer.add(["x", "y"], tensors(1, 2))
        writer.add(["z"], tensors(3))
    again = TensorStore(tmp_path)
    assert again.missing(["z", "w", "x", "w"]) == ["w"]
    found = again.get(["z", "x", "z"])
    assert torch.equal(found["a"], tensors(3, 1, 3)["a"]) and torch.equal(found["b"], tensors(3, 1, 3)["b"])


def test_an_entry_of_another_layout_is_as_if_it_were_not_there(tmp_path):
    with TensorStore(tmp_path).writer() as writer:
        writer.add(["x", "y"], tensors(1.0, 2.0))
    seen = {}

    def fits(key, layout):
        seen[key] = layout
        return key == "y"

    kept = TensorStore(tmp_path, fits)
    assert kept.missing(["x", "y"]) == ["x"] and torch.equal(kept.get(["y"])["a"], tensors(2)["a"])
    assert seen["x"] == {"a": (torch.float32, (3,)), "b": (torch.bfloat16, ())}


def test_values_that_are_no_numbers_are_told(tmp_path):
    with TensorStore(tmp_path).writer() as writer:
        writer.add(["x"], tensors(float("nan")))
    with pytest.raises(SceditError, match="not numbers .*made again"):
        TensorStore(tmp_path).get(["x"])


def test_shards_are_written_when_they_are_full_and_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_store, "_SHARD", 28)
    with pytest.raises(KeyboardInterrupt), TensorStore(tmp_path).writer() as writer:
        writer.add(["x", "y"], tensors(1, 2))
        assert len(list(tmp_path.iterdir())) == 1
        writer.add(["z"], tensors(3))
        raise KeyboardInterrupt
    assert len(list(tmp_path.iterdir())) == 2 and not TensorStore(tmp_path).missing(["x", "y", "z"])


def test_what_has_not_appeared_is_not_there(tmp_path):
    """A file that a killed process was writing may be whole, and still has not got its name."""
    with TensorStore(tmp_path).writer() as writer:
        writer.add(["x"], tensors(1))
    (file,) = tmp_path.iterdir()
    file.rename(file.with_name(f".1-000000~{file.name}"))
    assert TensorStore(tmp_path).missing(["x"]) == ["x"]


def test_a_torn_or_foreign_file_is_as_if_it_were_not_there(tmp_path):
    for key, value in (("x", 1), ("y", 2)):
        with TensorStore(tmp_path).writer() as writer:
            writer.add([key], tensors(value))
    whole = TensorStore(tmp_path)
    assert whole.missing("xy") == []
    del whole
    torn = sorted(tmp_path.iterdir())[0]
    data = torn.read_bytes()
    torn.unlink()
    torn.write_bytes(data[:-1])
    from safetensors.torch import save_file

    save_file({"w.a": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    left = TensorStore(tmp_path)
    assert len(left.missing(["x", "y"])) == 1 and left.missing("w") == ["w"]
