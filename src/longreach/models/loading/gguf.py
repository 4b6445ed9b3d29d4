"""The header of a GGUF file, walked within the file's own bounds before any library reads it.

The `gguf` package trusts the counts that a file gives: a damaged or hostile one would keep it busy
without end. The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md,
versions 2 and 3, little-endian.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from longreach.errors import ModelError

_MAGIC = b"GGUF"
_STRING = 8
_ARRAY = 9
# struct codes by the number of the type.
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_MOST_TEXT_BYTES = 16 << 20
_MOST_AXES = 8
_SIZES = re.compile(
    r".*\.(embedding_length|feed_forward_length|vocab_size|head_count|head_count_kv|\w+_length)"
)
_PARTS = "split.count"
_PART = "split.no"
# Windows are numbers of positions, not sizes of tensors.
_NO_SIZE = re.compile(r".*(context_length|original_context_length)")


@dataclass
class _Header:
    """What a file says of itself.

    Attributes:
        values: Scalars and texts by key; of an array its length, as a `range`.
        tensors: The number of weights of each tensor.
    """

    values: dict[str, int | float | str | range] = field(default_factory=dict)
    tensors: dict[str, int] = field(default_factory=dict)


class _Cut(Exception):
    """Raised where the header is longer than the file, or says what cannot be."""


def check_gguf(path: Path) -> None:
    """Refuses a file that is not a whole GGUF model.

    Raises:
        ModelError: It is of another kind, is cut short, is one of several parts, or describes more
            than it holds.
    """
    size_bytes = path.stat().st_size
    try:
        with path.open("rb") as file:
            header = _read(file, size_bytes)
    except (_Cut, struct.error, UnicodeDecodeError) as error:
        raise ModelError(
            f"'{path}' cannot be read as a GGUF model ({error}): copy or convert it again."
        ) from error
    parts = header.values.get(_PARTS)
    if isinstance(parts, int) and parts > 1:
        index = header.values.get(_PART)
        part = index + 1 if isinstance(index, int) else 1
        raise ModelError(
            f"'{path}' is part {part} of {parts} of a model: merge them with `llama-gguf-split"
            " --merge`, and give the result."
        )
    weights = sum(header.tensors.values())
    for key, value in header.values.items():
        # To Python, True and False are integers.
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        # Every block has one tensor at least.
        if key.endswith(".block_count") and value > len(header.tensors):
            raise ModelError(
                f"'{path}' says {key} {value:,} and holds {len(header.tensors)} tensors: it lacks"
                " blocks; copy or convert it again."
            )
        if _SIZES.fullmatch(key) and not _NO_SIZE.fullmatch(key) and not 0 <= value <= weights:
            raise ModelError(
                f"'{path}' says {key} {value:,} and holds {weights:,} weights: copy or convert it"
                " again."
            )


def _read(file: BinaryIO, size_bytes: int) -> _Header:
    """Returns what the header says.

    Raises:
        _Cut: It is not a whole header, or its tensors end behind the file.
    """
    if file.read(len(_MAGIC)) != _MAGIC:
        raise _Cut("it does not begin with the letters GGUF")
    version = _count(file, "I")
    if version not in (2, 3):
        raise _Cut(f"version {version}, and 2 and 3 are known")
    tensors = _count(file, "Q")
    entries = _count(file, "Q")
    header = _Header()
    for _ in range(entries):
        key = _text(file, size_bytes)
        header.values[key] = _value(file, _count(file, "I"), size_bytes)
    places = []
    for _ in range(tensors):
        name = _text(file, size_bytes)
        axes = _count(file, "I")
        # A damaged count would have the rest of the file read as sizes.
        if axes > _MOST_AXES:
            raise _Cut(f"tensor {name} has {axes} axes")
        weights = 1
        for _ in range(axes):
            weights *= _count(file, "Q")
        kind = _count(file, "I")
        start = _count(file, "Q")
        if name in header.tensors:
            raise _Cut(f"two tensors are called {name}")
        header.tensors[name] = weights
        places.append((name, start + _bytes_of(name, kind, weights)))
    # Places count from the end of the header.
    there = size_bytes - file.tell()
    for name, end in places:
        if end > there:
            raise _Cut(f"the file is cut short: tensor {name} ends {end - there:,} bytes behind it")
    return header


def _bytes_of(name: str, kind: int, weights: int) -> int:
    """Returns the bytes that a tensor takes; its weights are packed in blocks."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        block_weights, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError) as error:
        raise _Cut(f"tensor {name} is of an unknown type {kind}") from error
    return weights // block_weights * block_bytes


def _value(file: BinaryIO, kind: int, size_bytes: int) -> int | float | str | range:
    """Returns a scalar or a text; of an array only its length, as a `range`."""
    if kind in _SCALARS:
        return _number(file, _SCALARS[kind])
    if kind == _STRING:
        return _text(file, size_bytes)
    if kind != _ARRAY:
        raise _Cut(f"a value is of an unknown type {kind}")
    item = _count(file, "I")
    length = _count(file, "Q")
    # Each item takes a byte or more, so that the file's size bounds the loop below.
    if length > size_bytes - file.tell():
        raise _Cut(f"an array of {length:,} items is longer than the file")
    if item in _SCALARS:
        file.seek(length * struct.calcsize("<" + _SCALARS[item]), 1)
        if file.tell() > size_bytes:
            raise _Cut("an array is longer than the file")
    elif item == _STRING:
        for _ in range(length):
            _text(file, size_bytes)
    else:
        raise _Cut(f"an array holds items of type {item}")
    # A range has a length and takes no memory.
    return range(length)


def _text(file: BinaryIO, size_bytes: int) -> str:
    """Reads a text, with its length before it."""
    length = _count(file, "Q")
    if length > min(_MOST_TEXT_BYTES, size_bytes - file.tell()):
        raise _Cut(f"a text of {length:,} bytes is longer than the file")
    return file.read(length).decode("utf-8", "surrogateescape")


def _count(file: BinaryIO, code: str) -> int:
    """Reads a whole number of a struct code."""
    return int(_number(file, code))


def _number(file: BinaryIO, code: str) -> int | float:
    """Reads a number of a struct code."""
    size = struct.calcsize("<" + code)
    data = file.read(size)
    if len(data) < size:
        raise _Cut("the file is cut short")
    number: int | float = struct.unpack("<" + code, data)[0]
    return number
