"""What one file may cost, so that no file can use up the machine or stop the others."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields

from longreach.errors import DocumentError, UsageError
from longreach.wording import counted

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30
_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": _KIB,
    "mib": _MIB,
    "gib": _GIB,
}
_MOST = 2**62  # more than any machine has, and less than what the system's calls take


@dataclass(frozen=True)
class Limits:
    """What one file may cost at most.

    A file that needs more is skipped, with the limit named, and the others are read.

    The defaults let through what people write and scan: books of thousands of pages pass with much
    to spare.

    Attributes:
        file_bytes: Size of the file.
        unpacked_bytes: Of all that is unpacked from a DOCX, EPUB or the like; parts that no text is
            in do not count.
        members: Number of parts in such a file.
        text_characters: Length of the text. A language model's tokens of it have to fit into
            memory.
        seconds: Time to convert it.
        memory_bytes: Memory to convert it, where the system can limit that (not on macOS and
            Windows).

    Raises:
        UsageError: A limit is not a whole number of at least 1.
    """

    file_bytes: int = 512 * _MIB
    unpacked_bytes: int = 512 * _MIB
    members: int = 10_000
    text_characters: int = 50_000_000
    seconds: int = 120
    memory_bytes: int = 2 * _GIB

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            # True is an int to Python.
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST:
                raise UsageError(
                    f"The limit {limit.name} is {value!r}: give a whole number of at least 1."
                )

    @classmethod
    def parse(cls, given: list[str]) -> "Limits":
        """Returns the defaults with changes such as `seconds=300` or `file_bytes=2GiB`.

        Raises:
            UsageError: There is no such limit, or the value is not a number.
        """
        known = [limit.name for limit in fields(cls)]
        changes = {}
        for text in given:
            name, _, value = text.partition("=")
            if name not in known:
                raise UsageError(
                    f"There is no limit '{name}': give NAME=VALUE with one of {', '.join(known)}."
                )
            changes[name] = _parse_amount(name, value)
        return cls(**changes)


def _parse_amount(name: str, value: str) -> int:
    # Bounded, because Python is slow with numbers of any length.
    found = re.fullmatch(r"([0-9]{1,19}(?:\.[0-9]{1,9})?)\s*([a-z]*)", value.strip().lower())
    units = {"": 1}
    example = "300"
    if name.endswith("_bytes"):
        units = _UNITS
        example = "2GiB"
    if found is None or found[2] not in units:
        raise UsageError(f"The limit {name} is '{value}': give a number, such as {name}={example}.")
    return int(float(found[1]) * units[found[2]])


# A variable of the context, and no argument: converters call libraries, which call archives.
_CURRENT: ContextVar[Limits] = ContextVar("limits", default=Limits())  # noqa: B039  (it is frozen)


@contextmanager
def apply_limits(limits: Limits) -> Iterator[None]:
    """Makes `limits` what `get_limits` returns inside the block."""
    token = _CURRENT.set(limits)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def get_limits() -> Limits:
    """Returns the limits of the file that is being converted."""
    return _CURRENT.get()


def explain_excess(name: str, what: str, limit: str, limits: Limits) -> DocumentError:
    """Returns the error for a file that needs more than a limit allows.

    Args:
        name: The file as messages call it.
        what: What it does, such as "took too long to convert".
        limit: A field of `limits`.
        limits: Those that hold.
    """
    value = getattr(limits, limit)
    if limit.endswith("_bytes"):
        allowed = format_bytes(value)
    elif limit == "seconds":
        allowed = f"{value:,} s"
    else:
        allowed = f"{value:,}"
    advice = (
        f"split it or omit it, or allow more with --limit {limit}=... (in Python,"
        f" Limits({limit}=...))."
    )
    return DocumentError(f"{name} {what}, and the limit {limit} is {allowed}: {advice}")


def format_bytes(count: int) -> str:
    """Returns a number of bytes for people, such as "20.0 GiB"."""
    # A limit is mostly a round number in some unit, and is then shown without decimals.
    for unit, name in ((_GIB, "GiB"), (_MIB, "MiB"), (_KIB, "KiB")):
        if count < unit:
            continue
        if count % unit == 0:
            return f"{count // unit:,} {name}"
        return f"{count / unit:,.1f} {name}"
    return counted(count, "byte")
