"""What the objects of the interface have in common: ids, times, pages of a list, metadata."""

import hashlib
import secrets
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints

from longreach.jsontext import JsonObject
from longreach.serving.problems import Problem

MOST_LISTED = 100

Key = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Text = Annotated[str, StringConstraints(max_length=512)]
Metadata = dict[Key, Text]
Attributes = dict[Key, Text | bool | float]
MOST_PAIRS = 16


class Body(BaseModel):
    """A request's body: what it does not name is refused by its name."""

    model_config = ConfigDict(extra="forbid", str_max_length=2_000_000)


def new_id(prefix: str) -> str:
    """Returns a new id such as "file-0123456789abcdef01234567"."""
    return prefix + secrets.token_hex(12)


def short_hash(*parts: str) -> str:
    """Returns a name for what the parts say together, in the form that ids have."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:24]


def now() -> int:
    """Returns the time in seconds, as OpenAI's objects have it."""
    return int(time.time())


def check_pairs(pairs: Any, param: str) -> None:
    """Raises Problem where an object has more pairs than one may have."""
    if pairs is not None and len(pairs) > MOST_PAIRS:
        raise Problem(
            400, f"'{param}' has {len(pairs)} pairs: give at most {MOST_PAIRS}.", param=param
        )


class _Listed(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def created_at(self) -> int: ...


_T = TypeVar("_T", bound=_Listed)


class PageQuery(BaseModel):
    """Which part of a list is asked for."""

    model_config = ConfigDict(extra="forbid")
    limit: Annotated[int, "1 to 100"] = 20
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None
    before: str | None = None


def cut_page(items: Sequence[_T], query: PageQuery) -> tuple[list[_T], bool]:
    """Returns the items of a page, and whether there are more behind it.

    Raises:
        Problem: The limit cannot be, or `after` or `before` names no item.
    """
    if not 1 <= query.limit <= MOST_LISTED:
        raise Problem(400, f"'limit' must be 1 to {MOST_LISTED}.", param="limit")
    ordered = sorted(items, key=lambda item: (item.created_at, item.id))
    if query.order == "desc":
        ordered.reverse()
    ids = [item.id for item in ordered]
    if query.after is not None:
        ordered = ordered[_place(ids, query.after, "after") + 1 :]
    elif query.before is not None:
        ordered = ordered[: _place(ids, query.before, "before")][-query.limit :]
    return ordered[: query.limit], len(ordered) > query.limit


def _place(ids: Sequence[str], wanted: str, param: str) -> int:
    if wanted not in ids:
        raise Problem(400, f"'{param}' names no item of the list.", param=param)
    return ids.index(wanted)


def list_object(data: Sequence[JsonObject], has_more: bool) -> JsonObject:
    """Returns a list as OpenAI's interface gives it."""
    return {
        "object": "list",
        "data": list(data),
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }
