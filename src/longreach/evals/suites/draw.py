"""What generators of samples share: prompts filled up to a length, counted by the model's own
tokenizer."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from longreach.errors import ContextError, UsageError
from longreach.models.sharing import encode
from longreach.wording import counted


class Parts(NamedTuple):
    """A prompt in the parts of `Sample`."""

    before: str
    context: str
    after: str


class Drawn(NamedTuple):
    """What a task draws from one stream of chance: a prompt, the bare question and what is
    right."""

    parts: Parts
    question: str
    answers: tuple[str, ...]


def check(tasks: Sequence[str], known: Sequence[str], suite: str, samples: int) -> None:
    """Refuses names of tasks that a suite does not have, and counts of samples below one."""
    for task in tasks:
        if task not in known:
            raise UsageError(f"{suite} has no task '{task}': its tasks are {', '.join(known)}.")
    if not tasks or samples < 1:
        raise UsageError(
            f"{suite} needs one task and one sample a task at least, not {len(tasks)} and"
            f" {samples}."
        )


def count_tokens(tokenizer: Any, text: str) -> int:
    """Tokens of a prompt, with those that the tokenizer puts around every text."""
    return len(encode(tokenizer, text, verbose=False)["input_ids"])


def piece_tokens(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Tokens of each of many pieces of a prompt, in one call."""
    encoded = (
        encode(tokenizer, list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        if texts
        else []
    )
    return [len(ids) for ids in encoded]


def fit(
    tokenizer: Any,
    assemble: Callable[[int], Parts],
    cost: Callable[[int], int],
    budget: int,
    *,
    least: int,
    most: int,
    what: str,
) -> int:
    """How many pieces of haystack a prompt can take.

    Pieces are tokenised beforehand and their tokens added up; only prompts near the budget are
    tokenised whole, mostly one. The result is a function of the arguments: nothing is remembered
    from other prompts.

    Args:
        tokenizer: the model's.
        assemble: the prompt with so many pieces.
        cost: tokens of so many pieces, as an estimate that never falls as they become more.
        budget: tokens of the prompt at most.
        least: pieces that there have to be.
        most: pieces that there are.
        what: the task and its length, for what is said.

    Returns:
        A count from `least` to `most` whose prompt fits.

    Raises:
        ContextError: not even the least fits.
    """

    def slack(count: int) -> int:
        return budget - count_tokens(tokenizer, "".join(assemble(count)))

    fits, too_many, left = least, most + 1, slack(least)
    if left < 0:
        raise ContextError(
            f"The shortest prompt of {what} takes {counted(-left, 'token')} more than that with"
            " this tokenizer: ask for a greater length."
        )
    room = cost(least) + left
    while (count := min(bisect_right(range(most + 1), room, key=cost), too_many) - 1) > fits:
        left = slack(count)
        room = cost(count) + left
        if left < 0:
            too_many = count
        else:
            fits = count
    return fits
