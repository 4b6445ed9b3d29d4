"""Damage to bytes, to the members of ZIP archives, and to JSON values."""

import io
import json
import random
import re
import warnings
import zipfile
from typing import Any

_BITS = [1, 2, 4, 8, 16, 32, 64, 128]
_AWKWARD = [0, -1, 2**31, 2**63, 2**70, -(2**70), 1e308, 1.5, True, None, "", "x", "\x1b[31m", "\ud800", [], {}, [[]]]


def damaged(raw: bytes, other: bytes, chance: random.Random) -> bytes:
    """Returns `raw` with one to four kinds of damage; `other` is what may be spliced in."""
    data = bytearray(raw)
    for _ in range(chance.randint(1, 4)):
        data = bytearray(_damaged_once(bytes(data), other, chance))
    return bytes(data)


def _damaged_once(raw: bytes, other: bytes, chance: random.Random) -> bytes:
    if not raw:
        return other[: chance.randint(0, 64)]
    at = chance.randrange(len(raw))
    end = min(len(raw), at + chance.choice([1, 4, 64, 1024, len(raw)]))
    kind = chance.choice(["flip", "cut", "remove", "repeat", "insert", "splice", "number", "token"])
    if kind == "flip":
        data = bytearray(raw)
        for _ in range(chance.choice([1, 1, 4, 32])):
            data[chance.randrange(len(data))] ^= chance.choice(_BITS)
        return bytes(data)
    if kind == "cut":
        return raw[:at]
    if kind == "remove":
        return raw[:at] + raw[end:]
    if kind == "repeat":
        return raw[:at] + raw[at:end] * chance.choice([2, 3, 50]) + raw[end:]
    if kind == "insert":
        return raw[:at] + chance.randbytes(chance.choice([1, 8, 256])) + raw[at:]
    if kind == "splice":
        start = chance.randrange(len(other) + 1)
        return raw[:at] + other[start : start + 512] + raw[at:]
    if kind == "number":
        numbers = list(re.finditer(rb"\d+", raw[:100_000]))
        if not numbers:
            return raw
        found = chance.choice(numbers)
        value = chance.choice([b"0", b"-1", b"99999999999", b"4294967296", b"1e9"])
        return raw[: found.start()] + value + raw[found.end() :]
    tokens = list(re.finditer(rb"<[^<>]{1,200}>|/[A-Z]\w+|\[|\{", raw[:100_000]))
    if not tokens:
        return raw
    found = chance.choice(tokens)
    return raw[: found.start()] + found[0] * chance.choice([0, 2, 300]) + raw[found.end() :]


def damaged_archive(raw: bytes, other: bytes, chance: random.Random) -> bytes:
    """Returns a ZIP archive with the content, the name or the presence of one member damaged."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    number = chance.randrange(len(members))
    name, content = members[number]
    kind = chance.choice(["content", "content", "content", "gone", "renamed", "twice", "empty"])
    if kind == "content":
        members[number] = (name, damaged(content, other, chance))
    elif kind == "gone":
        del members[number]
    elif kind == "renamed":
        members[number] = (chance.choice(["../x", "/etc/x", name.upper(), name + "\\x"]), content)
    elif kind == "twice":
        members.append((name, damaged(content, other, chance)))
    else:
        members[number] = (name, b"")
    out = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members:  # a name twice is what is meant
            archive.writestr(member, content)
    return out.getvalue()


def damaged_json(text: str, chance: random.Random) -> str:
    """Returns JSON with one value changed, dropped, added or nested, or broken as text."""
    kind = chance.choice(["value", "value", "value", "gone", "more", "nested", "nan", "text", "text"])
    if kind == "text":
        return damaged(text.encode(), b'{"a": [1, "', chance).decode("utf-8", "replace")
    value = json.loads(text)
    if kind == "nested":
        depth = chance.choice([50, 5_000, 200_000])
        return chance.choice(["[" * depth + "]" * depth, "[" * depth, '{"a":' * depth])
    holder, key = _somewhere(value, chance)
    if holder is None:
        return json.dumps(chance.choice(_AWKWARD))
    if kind == "gone":
        del holder[key]
    elif kind == "more" and isinstance(holder, dict):
        holder["another field"] = chance.choice(_AWKWARD)
    elif kind == "nan":
        holder[key] = chance.choice([float("nan"), float("inf")])
    else:
        holder[key] = chance.choice(_AWKWARD)
    return json.dumps(value)


def _somewhere(value: Any, chance: random.Random) -> tuple[Any, Any]:
    """Returns a container inside `value` and a key of it; (None, None) where there is nothing in it."""
    holder, key, inside = None, None, value
    while isinstance(inside, dict | list) and inside and (holder is None or chance.random() < 0.6):
        holder = inside
        key = chance.choice(list(inside)) if isinstance(inside, dict) else chance.randrange(len(inside))
        inside = holder[key]
    return holder, key
