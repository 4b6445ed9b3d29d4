"""Memories: their positions, their bytes and back, and what is said of bytes that are none."""

import json
from typing import ClassVar

import pytest
import torch

from longreach.compressors.memory import (
    KeysValues,
    LayerEntries,
    Memory,
    Placement,
    Vectors,
    Within,
    read_memory,
    register_memory,
)
from longreach.errors import CorpusDamaged, UsageError

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def entries(heads, count, size, length, dtype=torch.float32):
    places = torch.stack([torch.randperm(length)[:count].sort().values for _ in range(heads)])
    return LayerEntries(
        torch.randn(heads, count, size, dtype=dtype), torch.randn(heads, count, size, dtype=dtype), places
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize("scale", [1.0, 0.0625, 0.1])
def test_vectors_come_back_bit_for_bit(dtype, count, scale):
    memory = Vectors(torch.randn(count, 5).to(dtype), scale)
    again = read_memory(memory.kind, memory.to_bytes())
    assert isinstance(again, Vectors) and torch.equal(again.vectors, memory.vectors)
    assert (again.vectors.dtype, again.scale, again.positions, again.covered) == (dtype, scale, count, count)
    assert memory.to_bytes() == again.to_bytes()
    assert memory.placement is Placement.EMBEDDINGS


def test_what_is_read_is_scaled_in_the_dtype_of_the_model():
    memory = Vectors(torch.randn(3, 4), 0.3)
    for dtype in DTYPES:
        assert torch.equal(memory.embeddings("cpu", dtype), 0.3 * memory.vectors.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_keys_and_values_come_back_bit_for_bit(dtype):
    layers = {2: entries(2, 5, 4, 40, dtype), 11: entries(2, 3, 4, 40, dtype), 0: entries(1, 4, 8, 40, dtype)}
    memory = KeysValues(layers, 40)
    again = read_memory(memory.kind, memory.to_bytes())
    assert isinstance(again, KeysValues) and (again.length, again.covered, again.positions) == (40, 40, 5)
    assert again.layers.keys() == layers.keys()
    for number, layer in layers.items():
        for mine, other in zip(layer[:3], again.layers[number][:3], strict=True):
            assert torch.equal(mine, other) and mine.dtype == other.dtype
    assert memory.to_bytes() == again.to_bytes()
    assert memory.placement is Placement.CACHE


def test_scaled_entries_come_back_and_are_read_multiplied():
    keys = torch.randint(-127, 128, (2, 3, 4), dtype=torch.int8)
    scale = torch.rand(2, 1, 4)
    layer = LayerEntries(keys, keys.float(), torch.arange(3).expand(2, 3), scale)
    again = read_memory("keys-values", KeysValues({0: layer}, 9, head=2, sink=3).to_bytes())
    assert (again.head, again.sink) == (2, 3)
    read = again.layers[0]
    assert read.keys.dtype == torch.int8 and read.value_scale is None
    assert torch.equal(read.read_keys("cpu", torch.float32), keys.float() * scale)
    assert torch.equal(read.read_values("cpu", torch.float32), keys.float())


def test_a_passage_within_a_segment_has_no_memory_of_its_own():
    again = read_memory("within", Within().to_bytes())
    assert (again.positions, again.covered, again.tensors()) == (0, 0, {})


@pytest.mark.parametrize(
    "layers, words",
    [
        ({}, "no layer"),
        ({0: LayerEntries(torch.zeros(2, 3, 4), torch.zeros(2, 2, 4), torch.zeros(2, 3, dtype=int))}, "shapes"),
        (
            {0: LayerEntries(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=int), torch.ones(1))},
            "scale",
        ),
        ({0: LayerEntries(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), torch.zeros(2, 2, dtype=int))}, "number"),
        ({0: LayerEntries(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4), torch.full((1, 1), 9))}, "outside"),
    ],
)
def test_keys_and_values_that_do_not_fit_each_other_are_refused(layers, words):
    with pytest.raises(ValueError, match=words):
        KeysValues(layers, 9)


def test_equal_memories_have_equal_bytes_in_any_process():
    payload = Vectors(torch.zeros(1, 2), 0.5).to_bytes()
    header = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
    assert header["__metadata__"] == {"memory": '{"kind": "vectors", "scale": 0.5}'}


VECTORS = Vectors(torch.randn(3, 4), 2.0).to_bytes()
ENTRIES = KeysValues({0: entries(1, 2, 4, 9)}, 9).to_bytes()


@pytest.mark.parametrize(
    "kind, payload",
    [
        ("vectors", b""),
        ("vectors", b"\x80\x04\x95 a pickle"),
        ("vectors", VECTORS[:-1]),
        ("vectors", VECTORS + b"x"),
        ("vectors", VECTORS[:40]),
        ("vectors", VECTORS.replace(b'"scale', b'"scala')),
        ("vectors", VECTORS.replace(b": 2.0}", b": nul}")),
        ("vectors", VECTORS.replace(b"__metadata__", b"__metadate__")),
        ("vectors", (1 << 62).to_bytes(8, "little") + VECTORS[8:]),
        ("vectors", ENTRIES),
        ("keys-values", VECTORS),
        ("keys-values", ENTRIES.replace(b"0.places", b"0.plates")),
        ("keys-values", ENTRIES.replace(b": 9,", b": 1,")),
    ],
)
def test_a_damaged_payload_is_one_clear_error(kind, payload):
    with pytest.raises(CorpusDamaged, match=r"cannot be read \(.*\): restore the corpus"):
        read_memory(kind, payload)


def test_every_cut_of_a_payload_is_a_clear_error():
    for payload, kind in ((VECTORS, "vectors"), (ENTRIES, "keys-values")):
        for end in range(len(payload)):
            with pytest.raises(CorpusDamaged):
                read_memory(kind, payload[:end])


def test_an_unknown_kind_is_one_clear_error():
    with pytest.raises(CorpusDamaged, match="kind 'runes', and only vectors, keys-values, within are known"):
        read_memory("runes", VECTORS)


def test_a_kind_from_outside_is_read_after_it_was_announced(monkeypatch):
    from longreach.compressors import memory

    monkeypatch.setattr(memory, "_KINDS", dict(memory._KINDS))

    class Blank(Memory):
        kind: ClassVar[str] = "blank"
        placement = Placement.EMBEDDINGS
        positions = covered = 0

        def tensors(self):
            return {}

        @classmethod
        def assemble(cls, tensors, values):
            return cls()

    register_memory(Blank)
    assert isinstance(read_memory("blank", Blank().to_bytes()), Blank)
    with pytest.raises(UsageError, match="'vectors' already"):
        register_memory(type("Other", (Blank,), {"kind": "vectors"}))
