"""Filters on the attributes of files, as OpenAI's interface has them: comparisons, and and or."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from longreach.jsontext import JsonObject
from longreach.serving.objects import Body, Key
from longreach.serving.problems import Problem

Value = str | bool | float
MOST_LEVELS = 10


class Comparison(Body):
    """One attribute compared with a value, or with a list of them."""

    type: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
    key: Key
    value: Value | Annotated[list[Value], Field(max_length=1000)]


class Compound(Body):
    """Several filters of which all or at least one must hold."""

    type: Literal["and", "or"]
    filters: Annotated[list[Comparison | Compound], Field(min_length=1, max_length=100)]


Filter = Comparison | Compound


def check_filter(given: Filter | None, level: int = 1) -> None:
    """Raises Problem where a filter is nested too deeply or compares with the wrong kind."""
    if given is None:
        return
    if level > MOST_LEVELS:
        raise Problem(
            400, f"The filters are nested more than {MOST_LEVELS} levels deep.", param="filters"
        )
    if isinstance(given, Compound):
        for part in given.filters:
            check_filter(part, level + 1)
        return
    wants_list = given.type in ("in", "nin")
    if wants_list != isinstance(given.value, list):
        kind = "a list of values" if wants_list else "one value"
        raise Problem(400, f"The filter '{given.type}' takes {kind}.", param="filters")


def matches(given: Filter | None, attributes: JsonObject) -> bool:
    """Returns whether the attributes of a file pass a filter; a missing one equals nothing."""
    if given is None:
        return True
    if isinstance(given, Compound):
        found = [matches(part, attributes) for part in given.filters]
        return all(found) if given.type == "and" else any(found)
    value = attributes.get(given.key)
    if isinstance(given.value, list):
        is_in = any(_equal(value, wanted) for wanted in given.value)
        return is_in if given.type == "in" else not is_in
    if given.type == "eq":
        return _equal(value, given.value)
    if given.type == "ne":
        return not _equal(value, given.value)
    return _compare(given.type, value, given.value)


_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
}


def _compare(kind: str, value: object, wanted: Value) -> bool:
    # Numbers have an order among themselves, and so have texts; true and false have none.
    if _kind(value) != _kind(wanted) or _kind(value) not in ("number", "text"):
        return False
    return _ORDER[kind](value, wanted)


def _equal(value: object, wanted: Value) -> bool:
    # True equals 1 to Python.
    return _kind(value) == _kind(wanted) and value == wanted


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "none"
