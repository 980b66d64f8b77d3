"""Hostile safetensors files: what the format's authors warn of, cuts at every field, and seeded damage."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.faults.mutations import ESCAPES, HTML, NASTY, TEXTS, changed, damaged

_DTYPES = (
    "F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "F6_E2M3", "F6_E3M2", "I64", "I32", "I8", "U64",
    "U16", "U8", "BOOL", "C64", "C128", "f32", "float32", "", "F32 ", "Q4_0",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Bytes to try, which show as their name."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


def pack(header: dict | bytes, body: bytes, length: int | None = None) -> bytes:
    """A safetensors file with this header and body, and `length` in place of the header's true one."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def parts(file: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and body of a whole file."""
    end = 8 + int.from_bytes(file[:8], "little")
    return json.loads(file[8:end]), file[end:]


def attacks(file: bytes) -> Iterator[Case]:
    """What safetensors' own tests and audit list, done to a whole file."""
    return (Case(*attack) for attack in _attacks(file))


def _attacks(file: bytes) -> Iterator[tuple[str, bytes]]:
    header, body = parts(file)
    text = json.dumps(header).encode()
    name = next(key for key in header if key != "__metadata__")
    first = header[name]

    def with_first(**changes: Any) -> bytes:
        return pack(header | {name: first | changes}, body)

    def on_its_own(entry: str, body: bytes = b"", name: str = "a") -> bytes:
        return pack(f'{{"{name}":{entry}}}'.encode(), body)

    near = (len(text) - 1, len(text) + 1)
    for length in (0, 1, 2, 7, *near, 10**8, 10**8 + 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1):
        yield f"header length {length}", pack(text, body, length)
    for start in (b" ", b"\n", b"[", b"(", b"\x00", b"\xef\xbb\xbf", b"\x1f\x8b", b'"', b"null", b"PK\x03\x04"):
        yield f"header begins with {start!r}", pack(start + text, body)
    deep = (b"{" * 50_000, b"[" * 200_000, b'{"a":' * 50_000)
    for all_of_it in (b"", b"{", b"{}", b"[]", b"null", b'""', b"0", *deep):
        yield f"header is {all_of_it[:8]!r}", pack(all_of_it, body)
        yield f"header is {all_of_it[:8]!r}, and no body", pack(all_of_it, b"")
    yield "invalid UTF-8", pack(text.replace(name.encode(), b"\xff\xfe\xc0\x80"), body)
    yield "lone surrogates", pack(text.replace(name.encode(), b"\\ud800"), body)
    yield "trailing bytes", file + b"\x00" * 100
    yield "trailing tensor", file + body
    yield "trailing spaces in the header", pack(text + b" " * 1000, body)
    yield "100 MB of spaces", pack(b" " * (10**8 - len(text)) + text, body)
    yield "100 MB of spaces behind", pack(text + b" " * (10**8 - len(text)), body)
    yield "no bytes", b""
    yield "no metadata", pack({key: value for key, value in header.items() if key != "__metadata__"}, body)
    begin, end = first["data_offsets"]
    twice = text[:-1] + b', "%s": %s}' % (name.encode(), json.dumps(first).encode())
    yield "a key twice", pack(twice, body)
    yield "metadata twice", pack(text[:-1] + b', "__metadata__": {"format": "scedit/1", "kind": "sc"}}', body)
    yield "overlapping offsets", with_first(data_offsets=[begin, end + 4])
    every = {key: value | {"data_offsets": [0, end]} for key, value in header.items() if key != "__metadata__"}
    yield "all tensors share bytes", pack({"__metadata__": header.get("__metadata__", {})} | every, body)
    yield "a hole", pack({key: _moved(value, 4) for key, value in header.items()}, bytes(4) + body)
    for offsets in ([end, begin], [-1, end], [begin, len(body) + 4], [begin, 2**64], [2**64 - 4, 2**64 - 1], [0.0, 4.0],
                    ["0", "4"], [begin], [begin, end, end], [], None, [begin, begin], {"0": begin}):  # fmt: skip
        yield f"offsets {offsets}", with_first(data_offsets=offsets)
    for shape in ([], [-1], [2**63], [2**32, 2**32], [2**64 - 1, 2], [0], [0, 2**63], [2**62, 0, 2**62], [1.5], ["8"],
                  None, {}, [[1]], [1] * 5000, first["shape"][::-1], [*first["shape"], 1]):  # fmt: skip
        yield f"shape {str(shape)[:40]}", with_first(shape=shape)
        nothing = json.dumps({"dtype": "F32", "shape": shape, "data_offsets": [0, 0]})
        yield f"shape {str(shape)[:40]} of nothing", on_its_own(nothing)
    for dtype in _DTYPES:
        yield f"dtype {dtype!r}", with_first(dtype=dtype)
        bits = 4 if dtype == "F4" else 6 if dtype.startswith("F6") else 8 * {"4": 8, "8": 16}.get(dtype[-1:], 1)
        whole = f'{{"dtype":"{dtype}","shape":[8],"data_offsets":[0,{bits}]}}'
        yield f"dtype {dtype!r} of a right size", on_its_own(whole, bytes(bits), "lsc_identity.0.tuner_op.ln1.weight")
    for more in ("dtype", "shape", "data_offsets"):
        yield f"no {more}", pack(header | {name: {key: value for key, value in first.items() if key != more}}, body)
    yield "an unknown field", with_first(loader="import os")
    for metadata in (None, [], "text", 3, {"a": 1}, {"a": {"b": "c"}}, {"a": None}, {"format": "scedit/9"}):
        yield f"metadata {metadata}", pack(header | {"__metadata__": metadata}, body)
    endless = (f"lsc_identity.1{'0' * 5000}.tuner_op.ln1.weight", f"1{'0' * 5000}.pre_hint_blocks.0.weight")
    odd = ("x" * 1_000_000, "a\x00b", "\n", ESCAPES, HTML, "../../x", "", "scetuner_a" * 20_000, "1." * 50_000)
    for key in (*odd, *endless, "lsc_identity.99999999.tuner_op.ln1.weight", "lsc_identity.٣.tuner_op.ln1.weight"):
        yield f"key {key[:12]!r}", pack({key if old == name else old: value for old, value in header.items()}, body)
        yield f"key {key[:12]!r} alone", pack({key: _floats(0)}, bytes(4))
    for key in ("a.{}", "lsc_identity.{}.tuner_op.ln1.weight", "{}.lsc_tuner_blocks.0.tuner_op.ln1.weight"):
        many = {key.format(i): _floats(i) for i in range(100_000)}
        yield f"100,000 tensors {key}", pack(many | {"__metadata__": header.get("__metadata__", {})}, bytes(400_000))


def cuts(file: bytes) -> Iterator[Case]:
    """The file cut within its length, at every field of its header, and at and about every tensor's ends."""
    header, _ = parts(file)
    end = 8 + int.from_bytes(file[:8], "little")
    places = {*range(10), end - 1, end, end + 1, len(file) - 1}
    places |= {at for at in range(8, end) if file[at : at + 1] in b'{}[]:,"'}
    for key, value in header.items():
        if key != "__metadata__":
            places |= {end + offset + step for offset in value["data_offsets"] for step in (-1, 0, 1)}
    for at in sorted(place for place in places if 0 <= place < len(file)):
        yield Case(f"cut at {at}", file[:at])


def damage(file: bytes, rng: random.Random) -> Case:
    """Seeded damage to bytes anywhere, to the header's bytes, or to what the header says."""
    header, body = parts(file)
    end = 8 + int.from_bytes(file[:8], "little")
    match rng.randrange(5):
        case 0:
            return Case("bytes", damaged(file, rng))
        case 1:
            return Case("header bytes", file[:8] + damaged(file[8:end], rng) + body)
        case 2:
            return Case("header bytes with their length", pack(damaged(file[8:end], rng), body))
        case 3:
            return Case("header", pack(changed(header, rng), body))
        case _:
            told = _told(header.get("__metadata__", {"format": "pt"}), rng)
            return Case("metadata", pack(header | {"__metadata__": told}, body))


def _told(metadata: dict[str, str], rng: random.Random) -> dict[str, str]:
    """Metadata of texts, one of them replaced, or the JSON in it changed."""
    metadata = dict(metadata)
    key = rng.choice(sorted(metadata))
    try:
        value = json.loads(metadata[key])
    except ValueError:
        value = metadata[key]
    if isinstance(value, list | dict) and rng.random() < 0.8:
        metadata[key] = json.dumps(changed(value, rng))
    else:
        metadata[key] = rng.choice(TEXTS) if rng.random() < 0.5 else json.dumps(rng.choice(NASTY))
    return metadata


def _floats(index: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [1], "data_offsets": [4 * index, 4 * index + 4]}


def _moved(entry: dict[str, Any], by: int) -> dict[str, Any]:
    if "data_offsets" not in entry:
        return entry
    return entry | {"data_offsets": [offset + by for offset in entry["data_offsets"]]}
