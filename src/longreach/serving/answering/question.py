"""What a client asks, in the form that all endpoints share."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from pydantic import Field

from longreach.engine.sampling import Sampling
from longreach.engine.turns import Role, Turn
from longreach.reading.policy import DEFAULT_K, DEFAULT_MIXED_K, Policy
from longreach.serving.filters import Filter
from longreach.serving.objects import Body
from longreach.serving.problems import Problem

MOST_STOPS = 4
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_SEPARATOR = "\n\n"


class Reading(Body):
    """How a corpus is read for a question: the field `longreach` of a request.

    Attributes:
        document: The document that the question is about: its name, or the end of its path.
        policy: The way of reading; "measured" takes what `study` found best for the corpus.
        budget: Positions of the whole prompt at most.
        k: Passages retrieved.
        filters: On the attributes of files, as in a search.
        threshold: The least score of passages, from 0 to 1, as in a search.
    """

    document: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    policy: Literal["measured", "none", "passages", "compressed", "mixed", "full"] = "measured"
    budget: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    k: Annotated[int, Field(ge=1, le=50)] | None = None
    filters: Filter | None = None
    threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None

    def make_policy(self, measured: Policy) -> Policy:
        """Returns the policy that was asked for.

        Args:
            measured: The one that `study` found best, or else the usual one.
        """
        k = self.k
        budget = self.budget
        if self.policy == "none":
            return Policy.none(budget=budget)
        if self.policy == "full":
            return Policy.full(budget=budget)
        if self.policy == "passages":
            return Policy.passages(k or DEFAULT_K, budget=budget)
        if self.policy == "compressed":
            return Policy.compressed(k or DEFAULT_K, budget=budget)
        if self.policy == "mixed":
            return Policy.mixed(k or DEFAULT_MIXED_K, budget=budget)
        return replace(measured, k=k or measured.k, budget=budget or measured.budget)


@dataclass(frozen=True)
class Question:
    """A question with what was said before it, and how it is to be answered.

    Attributes:
        text: What the user says last.
        history: What was said before.
        sampling: How tokens are chosen.
        stops: Texts before which the answer ends.
        reading: How a corpus is read for it.
        is_length_asked: Whether the client said how long the answer may be.
    """

    text: str
    history: tuple[Turn, ...]
    sampling: Sampling
    stops: tuple[str, ...] = ()
    reading: Reading = field(default_factory=Reading)
    is_length_asked: bool = True


def make_turns(said: Sequence[tuple[str, str]], param: str) -> tuple[tuple[Turn, ...], str]:
    """Returns the turns before the last one, and what the user says last.

    Neighbors of one role are one turn, because templates know no others.

    Args:
        said: Roles and texts.
        param: The parameter that they come from, for messages.

    Raises:
        Problem: There are none, the last one is not the user's, or a system speaks later than
            first.
    """
    turns: list[Turn] = []
    for number, (name, text) in enumerate(said):
        role = _ROLES.get(name)
        if role is None:
            raise Problem(
                400,
                f"A message of the role '{name[:50]}' cannot be read: use system, user or"
                " assistant.",
                code="unsupported_value",
                param=f"{param}[{number}].role",
            )
        if turns and turns[-1].role == role:
            turns[-1] = Turn(role, turns[-1].text + _SEPARATOR + text)
        elif role == "system" and turns:
            raise Problem(
                400,
                "Messages of the system come first: put what it says before all others.",
                param=f"{param}[{number}].role",
            )
        else:
            turns.append(Turn(role, text))
    if not turns or turns[-1].role != "user" or not turns[-1].text.strip():
        raise Problem(
            400, "The last message must be a question of the user: ask something.", param=param
        )
    return tuple(turns[:-1]), turns[-1].text


def join_text(content: Sequence[tuple[str, str]], kinds: Sequence[str], param: str) -> str:
    """Returns the text of a message's content.

    Args:
        content: The kinds and texts of its parts.
        kinds: Those that are read.
        param: The parameter, for messages.

    Raises:
        Problem: A part is no text.
    """
    texts = []
    for number, (kind, text) in enumerate(content):
        if kind not in kinds:
            raise Problem(
                400,
                f"A part of the type '{kind[:50]}' cannot be read: only text is.",
                code="unsupported_value",
                param=f"{param}[{number}].type",
            )
        texts.append(text)
    return "".join(texts)
