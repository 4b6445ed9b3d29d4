"""What a segment becomes, in one of two forms: summary vectors, or keys and values.

A `Memory` says how many positions it takes, how it becomes bytes and back, and how it is placed in
front of what the model reads next. Its bytes are one safetensors payload, never a pickle: tensors
in their own dtypes and shapes, and one metadata entry with a JSON object of its other values.

Shapes: n vectors or kept entries, d hidden size, H KV heads, D size of a head.
"""

import json
import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, NamedTuple, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from longreach.errors import CorpusDamaged, UsageError
from longreach.jsontext import JsonObject, JsonValue, parse_object, read_field

# All values of a memory lie in one metadata entry: the order of several would differ from run to
# run, and equal memories must have equal bytes.
_ENTRY = "memory"
# A safetensors payload begins with the length of its JSON header: 8 bytes, little-endian.
_LENGTH = struct.Struct("<Q")


class Placement(StrEnum):
    """How a memory is read: in place of input embeddings, or as entries of the KV cache."""

    EMBEDDINGS = "embeddings"
    CACHE = "cache"


class Memory(ABC):
    """What a compressor makes of one segment.

    Subclasses are immutable. `kind` names the form in a corpus; a form from outside the package is
    announced with `register_memory`.
    """

    kind: ClassVar[str]
    placement: ClassVar[Placement]

    @property
    @abstractmethod
    def positions(self) -> int:
        """The number of positions that the memory takes of the model's input or KV cache."""

    @property
    @abstractmethod
    def covered(self) -> int:
        """The number of positions that what is read next stands behind the memory's start."""

    @abstractmethod
    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors of the memory by name."""

    def values(self) -> JsonObject:
        """Everything beside the tensors, as JSON values."""
        return {}

    @classmethod
    @abstractmethod
    def assemble(cls, tensors: Mapping[str, torch.Tensor], values: Mapping[str, JsonValue]) -> Self:
        """Returns the memory that has these tensors and values.

        Raises:
            KeyError, TypeError, ValueError: They do not make up a memory of this kind.
        """

    def to_bytes(self) -> bytes:
        """Returns the memory as a safetensors payload; equal memories give equal bytes."""
        tensors = {}
        for name, tensor in self.tensors().items():
            # Two of them may be views of one storage, which safetensors refuses.
            tensors[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        described = {"kind": self.kind} | self.values()
        return save(tensors, {_ENTRY: json.dumps(described, sort_keys=True)})

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """Returns the memory that `to_bytes` wrote, on the CPU.

        Raises:
            CorpusDamaged: The payload is not what `to_bytes` of this kind writes.
        """
        try:
            values = _values(payload)
            kind = values.pop("kind")
            if kind != cls.kind:
                raise ValueError(f"it is of the kind {kind!r}")
            return cls.assemble(load(payload), values)
        except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CorpusDamaged(
                f"A stored memory of the kind '{cls.kind}' cannot be read ({reason}): restore the"
                " corpus from a backup, or add its document again."
            ) from error


@dataclass(frozen=True, eq=False)
class Vectors(Memory):
    """Summary vectors, which the model reads in place of input embeddings.

    Attributes:
        vectors: [n, d], as the compressor made them.
        scale: What they are multiplied by where they are read.
    """

    vectors: torch.Tensor
    scale: float = 1.0

    kind = "vectors"
    placement = Placement.EMBEDDINGS

    @property
    def positions(self) -> int:
        """One for each vector."""
        return len(self.vectors)

    @property
    def covered(self) -> int:
        """As many as the vectors take themselves."""
        return len(self.vectors)

    def embeddings(self, device: torch.device | str, dtype: torch.dtype) -> torch.Tensor:
        """Returns what the model reads, [n, d]: the vectors times their scale."""
        return self.scale * self.vectors.to(device, dtype)

    def tensors(self) -> dict[str, torch.Tensor]:
        """See `Memory.tensors`."""
        return {"vectors": self.vectors}

    def values(self) -> JsonObject:
        """See `Memory.values`."""
        return {"scale": self.scale}

    @classmethod
    def assemble(cls, tensors: Mapping[str, torch.Tensor], values: Mapping[str, JsonValue]) -> Self:
        """See `Memory.assemble`."""
        (name,) = tensors
        vectors = tensors[name]
        scale = values["scale"]
        if name != "vectors" or vectors.dim() != 2:
            raise ValueError("it does not hold one tensor of vectors")
        # To Python the `true` of JSON is a whole number.
        if isinstance(scale, bool) or not isinstance(scale, (int, float)):
            raise TypeError("its scale is not a number")
        return cls(vectors, float(scale))


@dataclass(frozen=True, eq=False)
class Within(Memory):
    """What a passage has instead of a memory where that of an earlier one stands for it too.

    A segment may be longer than a passage: its first passage has the memory of all of it.
    """

    kind = "within"
    placement = Placement.EMBEDDINGS

    @property
    def positions(self) -> int:
        """Returns 0."""
        return 0

    covered = positions

    def tensors(self) -> dict[str, torch.Tensor]:
        """See `Memory.tensors`; this memory has no tensors."""
        return {}

    @classmethod
    def assemble(cls, tensors: Mapping[str, torch.Tensor], values: Mapping[str, JsonValue]) -> Self:
        """See `Memory.assemble`."""
        if tensors:
            raise ValueError("it holds tensors")
        return cls()


class LayerEntries(NamedTuple):
    """What one layer of the model keeps of a segment.

    Attributes:
        keys: [H, n, D], rotated as at their own positions.
        values: [H, n, Dv].
        places: [H, n], the position in the segment that each entry comes from, ascending.
        key_scale: [H, 1, D], what keys are multiplied by where they are read; None for nothing.
        value_scale: [H, 1, Dv], the same for values.
    """

    keys: torch.Tensor
    values: torch.Tensor
    places: torch.Tensor
    key_scale: torch.Tensor | None = None
    value_scale: torch.Tensor | None = None

    def read_keys(self, device: torch.device | str, dtype: torch.dtype) -> torch.Tensor:
        """Returns the keys as a model reads them."""
        return _scaled(self.keys, self.key_scale, device, dtype)

    def read_values(self, device: torch.device | str, dtype: torch.dtype) -> torch.Tensor:
        """Returns the values as a model reads them."""
        return _scaled(self.values, self.value_scale, device, dtype)


@dataclass(frozen=True, eq=False)
class KeysValues(Memory):
    """Keys and values, which are placed into the KV cache before the model reads on.

    Attributes:
        layers: The entries of each layer that keeps some, by the layer's number.
        length: Positions of the segment, with the head of the prompt before it. What is read next
            stands behind all of them, however few entries are kept.
        head: Positions of that head, which all segments of a model share.
        sink: The first positions, which are always kept; where several memories stand one after
            the other, only the first one has its own.
    """

    layers: Mapping[int, LayerEntries]
    length: int
    head: int = 0
    sink: int = 0

    kind = "keys-values"
    placement = Placement.CACHE

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("no layer keeps anything")
        for number, layer in self.layers.items():
            # Some models have values of another size than keys.
            three = layer.keys.dim() == layer.values.dim() == 3
            if not three or layer.keys.shape[:2] != layer.values.shape[:2]:
                raise ValueError(f"keys and values of layer {number} have different shapes")
            _check_scale(number, layer.keys, layer.key_scale)
            _check_scale(number, layer.values, layer.value_scale)
            if layer.places.shape != layer.keys.shape[:2]:
                raise ValueError(f"entries and places of layer {number} differ in number")
            if layer.places.numel() and not 0 <= int(layer.places.max()) < self.length:
                raise ValueError(f"an entry of layer {number} lies outside of the segment")

    @property
    def positions(self) -> int:
        """The number of entries in the layer that keeps most of them."""
        return max(layer.keys.shape[1] for layer in self.layers.values())

    @property
    def covered(self) -> int:
        """The length of the segment."""
        return self.length

    def tensors(self) -> dict[str, torch.Tensor]:
        """See `Memory.tensors`."""
        found = {}
        for number, layer in self.layers.items():
            for name, tensor in layer._asdict().items():
                if tensor is not None:
                    found[f"{number}.{name}"] = tensor
        return found

    def values(self) -> JsonObject:
        """See `Memory.values`."""
        return {"length": self.length, "head": self.head, "sink": self.sink}

    @classmethod
    def assemble(cls, tensors: Mapping[str, torch.Tensor], values: Mapping[str, JsonValue]) -> Self:
        """See `Memory.assemble`."""
        counts = {}
        for name in ("length", "head", "sink"):
            count = values[name]
            # True is a number to Python.
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise TypeError(f"its {name} is not a whole number")
            counts[name] = count
        parts: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            number, _, part = name.partition(".")
            parts.setdefault(int(number), {})[part] = tensor
        # safetensors has an order of its own, in which layer 10 may come before layer 2.
        layers = {number: LayerEntries(**parts[number]) for number in sorted(parts)}
        return cls(layers, **counts)


def _check_scale(number: int, entries: torch.Tensor, scale: torch.Tensor | None) -> None:
    if scale is not None and scale.shape != (entries.shape[0], 1, entries.shape[2]):
        raise ValueError(f"a scale of layer {number} does not fit its entries")


def _scaled(
    entries: torch.Tensor,
    scale: torch.Tensor | None,
    device: torch.device | str,
    dtype: torch.dtype,
) -> torch.Tensor:
    entries = entries.to(device)
    if scale is not None:
        entries = entries.float() * scale.to(device)
    return entries.to(dtype)


_KINDS: dict[str, type[Memory]] = {cls.kind: cls for cls in (Vectors, KeysValues, Within)}


def register_memory(kind: type[Memory]) -> None:
    """Announces a form of memory, so that corpora can hold it.

    Raises:
        UsageError: Another form has its name.
    """
    # Announcing the same class twice is harmless.
    if _KINDS.setdefault(kind.kind, kind) is not kind:
        raise UsageError(f"There is a kind of memory '{kind.kind}' already: choose another name.")


def read_memory(kind: str, payload: bytes) -> Memory:
    """Returns the memory that a corpus keeps as `kind` and `payload`.

    Raises:
        CorpusDamaged: The kind is unknown, or the payload is damaged.
    """
    if kind not in _KINDS:
        known = ", ".join(_KINDS)
        raise CorpusDamaged(
            f"The corpus holds a memory of the kind '{kind}', and only {known} are known: use the"
            " release or the package that wrote it."
        )
    return _KINDS[kind].from_bytes(payload)


def concatenated(memories: Sequence[Memory]) -> torch.Tensor:
    """Returns the vectors [n, d] of memories one after the other, without their scales.

    Raises:
        UsageError: They are not summary vectors.
    """
    parts = []
    for memory in memories:
        if not isinstance(memory, Vectors):
            raise UsageError(f"A memory of the kind '{memory.kind}' has no vectors.")
        parts.append(memory.vectors)
    return torch.cat(parts)


def embedded(memories: Sequence[Memory], like: torch.Tensor) -> list[torch.Tensor]:
    """Returns what a model reads for each memory, [n, d].

    Args:
        memories: Those that are placed as input embeddings.
        like: The model's input embeddings, for their device and dtype.

    Raises:
        UsageError: One of them is placed otherwise.
    """
    found = []
    for memory in memories:
        if not isinstance(memory, Vectors):
            raise UsageError(f"A memory of the kind '{memory.kind}' is not read as embeddings.")
        found.append(memory.embeddings(like.device, like.dtype))
    return found


def _values(payload: bytes) -> JsonObject:
    """Returns the metadata of a payload. safetensors gives it for files only."""
    if len(payload) < _LENGTH.size:
        raise ValueError("it is too short")
    # A payload is the length of its header, the header in JSON, and the tensors.
    end = _LENGTH.size + _LENGTH.unpack_from(payload)[0]
    header = parse_object(payload[_LENGTH.size : end])
    return parse_object(read_field(header, "__metadata__", dict)[_ENTRY].encode())
