"""JSON that others wrote, or that may have been cut, edited or damaged: a usable value, or one
short reason.

`json.loads` alone lets through what fails later, far from the file: numbers that fit no column,
NaN, nesting that ends in a RecursionError. Whoever reads a file parses it here and says in one
sentence which file, and what to do.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import NoReturn, TypeAlias, TypeVar

MOST_LEVELS = 100
_BIGGEST = 1 << 63

JsonValue: TypeAlias = object
"""A value of JSON, of a kind that nobody has looked at yet.

It is `object`, not a union that names itself: whoever reads a value has to look at its kind either
way, and of those who make one the union would refuse a `dict[str, int]`. It is not `Any`, with
which nobody would have to look. `read_field` looks.
"""

JsonObject: TypeAlias = dict[str, JsonValue]
"""An object of JSON. What only reads one takes a `Mapping[str, JsonValue]`."""

Kinds = Mapping[str, tuple[type, ...]]

Kind = TypeVar("Kind")


class NotJson(ValueError):
    """A text is not the JSON that was asked for; the message is a short reason for brackets."""


def parse_json(
    text: str | bytes,
    *,
    wide: bool = False,
    nan: Callable[[str], JsonValue] | None = None,
    unique: bool = False,
) -> JsonValue:
    """Returns the value that a JSON text holds.

    Args:
        text: The text; bytes are UTF-8, with or without a byte order mark.
        wide: Also take whole numbers beyond 64 bits, as the configs of published tokenizers hold.
        nan: What becomes of NaN, Infinity and -Infinity, such as `float`; None refuses them, as
            JSON does.
        unique: Refuse an object that names a field twice; else the last value counts.

    Raises:
        NotJson: It is no JSON, nested more than 100 levels deep, or holds a number that is out of
            range.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        value = json.loads(
            text.removeprefix("\ufeff"),
            parse_constant=nan or _refuse_constant,
            parse_int=int if wide else _integer,
            parse_float=_number,
            object_pairs_hook=_unique_fields if unique else None,
        )
    except UnicodeDecodeError as error:
        raise NotJson("it is not UTF-8") from error
    except RecursionError as error:
        raise NotJson(f"it is nested more than {MOST_LEVELS} levels deep") from error
    except NotJson:
        raise
    except ValueError as error:  # also of whole numbers with thousands of digits
        raise NotJson(" ".join(str(error).split())) from error
    if text.count("[") + text.count("{") > MOST_LEVELS:
        _check_depth(value)
    return value


def parse_object(
    text: str | bytes, *, wide: bool = False, nan: Callable[[str], JsonValue] | None = None
) -> JsonObject:
    """Returns the object that a JSON text holds. Arguments and errors are those of `parse_json`."""
    value = parse_json(text, wide=wide, nan=nan)
    if not isinstance(value, dict):
        raise NotJson("it is no JSON object")
    return value


def read_field(values: Mapping[str, JsonValue], name: str, kind: type[Kind]) -> Kind:
    """Returns a field of an object, which has to be of this kind.

    A whole number is also a `float`; True and False are no numbers.

    Raises:
        KeyError: The object has no such field.
        TypeError: The field is of another kind. Whoever reads what others wrote says so in a
            sentence of its own, by `misfit`.
    """
    value = values[name]
    if kind is float and type(value) is int:
        return value  # type: ignore[return-value]  # an int is a float to whoever checks types
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"the field '{name}' holds no {kind.__name__}")
    return value


def misfit(values: JsonValue, kinds: Kinds) -> str | None:
    """Returns the first of the fields `kinds` that `values` lacks or has with another type.

    None means that all fit. True and False are numbers to Python, and not here: a field takes them
    only where `bool` is among its types.
    """
    for name, types in kinds.items():
        if not isinstance(values, Mapping) or name not in values:
            return name
        value = values[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            return name
    return None


def _unique_fields(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise NotJson(f"it names {json.dumps(twice)[:40]} twice")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise NotJson(f"{name} is no number")


def _integer(digits: str) -> int:
    number = int(digits)
    if not -_BIGGEST <= number < _BIGGEST:
        raise NotJson("a whole number in it is out of range")
    return number


def _number(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise NotJson("a number in it is out of range")
    return number


def _check_depth(value: JsonValue) -> None:
    """Raises NotJson where lists and objects are nested too deeply for what walks them later."""
    level = [value]
    for _ in range(MOST_LEVELS + 1):
        below = list[JsonValue]()
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        if not below:
            return
        level = below
    raise NotJson(f"it is nested more than {MOST_LEVELS} levels deep")
