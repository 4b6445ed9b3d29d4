"""The options of a suite: what its command offers, how words become values, and what is refused.

Imports no torch: options are checked before a model is loaded for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, cast

from longreach.errors import UsageError

Value = TypeVar("Value")
_KEY = "option"


@dataclass(frozen=True)
class SuiteOption:
    """One option, as the command offers it.

    Attributes:
        name: Of the field that holds its value; the command says hyphens for underscores.
        value_type: Of one word on the command line: str, int, float, bool or Path.
        help: A sentence for `--help`, with the default.
        default: The field's value where the option is not given.
        check: Raises UsageError for a value that cannot be; is given the name and the value.
        parse: Makes the field's value of the words given; is given the name and the words.
        repeated: Whether it may be given several times; its words are then a list.
        metavar: What `--help` shows for the value.
        record: What the settings of a run say of a value; None where it does not decide what is
            asked.
    """

    name: str
    value_type: type[object]
    help: str
    default: object
    check: Callable[..., None] | None
    parse: Callable[..., object] | None
    repeated: bool
    metavar: str | None
    record: Callable[..., object] | None

    @property
    def flag(self) -> str:
        """The option as a user types it."""
        return "--" + self.name.replace("_", "-")


def as_json(value: object) -> object:
    """Returns a value as the settings of a run hold it; files count by their names only."""
    if isinstance(value, Path):
        return value.name
    if isinstance(value, Mapping):
        # The names alone: where the files lie does not decide what is asked.
        return sorted(value)
    # JSON knows lists and no tuples.
    if isinstance(value, Sequence) and not isinstance(value, str):
        return list(map(as_json, value))
    return value


def option(
    default: Value,
    help: str,
    *,
    value_type: type[object] = str,
    shown: str = "",
    check: Callable[..., None] | None = None,
    parse: Callable[..., object] | None = None,
    repeated: bool = False,
    metavar: str | None = None,
    record: Callable[..., object] | None = as_json,
) -> Value:
    """Returns the field of a suite that is an option of its command; see `SuiteOption`.

    Args:
        default: The value where the option is not given.
        help: A sentence for `--help`.
        value_type: Of one word on the command line.
        shown: How `--help` says the default; "" leaves that to the default itself.
        check: Raises UsageError for a value that cannot be.
        parse: Makes the value of the words given.
        repeated: Whether it may be given several times.
        metavar: What `--help` shows for the value.
        record: What the settings of a run say of a value; None leaves it out of them.
    """
    # What says nothing is not shown: None, False and empty values.
    said = shown
    if not said and isinstance(default, int | str) and not isinstance(default, bool) and default:
        said = str(default)
    details = {
        "value_type": value_type,
        "help": f"{help} [default: {said}]" if said else help,
        "check": check,
        "parse": parse,
        "repeated": repeated,
        "metavar": metavar,
        "record": record,
    }
    made: Any
    if isinstance(default, dict):
        # A field may not have a default that can change.
        made = field(default_factory=default.copy, metadata={_KEY: details})
    else:
        made = field(default=default, metadata={_KEY: details})
    # As of `dataclasses.field`: to type checkers a field has the type of its value.
    return cast(Value, made)


def options_of(suite: type[object]) -> tuple[SuiteOption, ...]:
    """Returns the options of a dataclass, in the order of its fields."""
    found = []
    for one in fields(suite):  # type: ignore[arg-type]
        if _KEY in one.metadata:
            found.append(SuiteOption(name=one.name, default=one.default, **one.metadata[_KEY]))
    return tuple(found)


def at_least(least: int) -> Callable[[str, int | None], None]:
    """Returns a check that refuses numbers below `least`."""

    def check(name: str, value: int | None) -> None:
        # None leaves the choice to the suite.
        if value is not None and value < least:
            raise UsageError(f"{name} is {value}; give at least {least}.")

    return check


def split_names(name: str, text: str) -> tuple[str, ...]:
    """Returns the names in a text like "vt,cwe"."""
    parts = map(str.strip, text.split(","))
    # A comma at the end does no harm.
    return tuple(filter(None, parts))


def read_lengths(name: str, text: str) -> tuple[int, ...]:
    """Returns the numbers in a text like "2048,4096".

    Raises:
        UsageError: Something in it is not a number.
    """
    try:
        return tuple(map(int, split_names(name, text)))
    except ValueError as error:
        raise UsageError(
            f"--{name} is '{text}'; give numbers of tokens such as 2048,4096."
        ) from error


def check_lengths(name: str, value: Sequence[int]) -> None:
    """Raises UsageError where lengths are missing, below 1 or given twice."""
    if not value or min(value) < 1 or len(set(value)) < len(value):
        raise UsageError(
            "The lengths are numbers of tokens, each once: give some such as 2048,4096."
        )


def read_pairs(name: str, words: Sequence[str]) -> dict[str, str]:
    """Returns the paths in words like "fairytaleqa=FOLDER", by their names.

    Raises:
        UsageError: A word is not of this form, or a name comes twice.
    """
    found: dict[str, str] = {}
    for word in words:
        key, _, path = word.partition("=")
        if not key or not path or key in found:
            raise UsageError(
                f"--{name} is '{word}'; give NAME=PATH, each name once, such as fairytaleqa=FOLDER."
            )
        found[key] = path
    return found


def check_data_names(known: Sequence[str], suite: str) -> Callable[[str, Mapping[str, str]], None]:
    """Returns a check that refuses data of names that a suite does not know."""

    def check(name: str, value: Mapping[str, str]) -> None:
        for key in value:
            if key not in known:
                raise UsageError(f"There are no data '{key}' of {suite}: use {', '.join(known)}.")

    return check
