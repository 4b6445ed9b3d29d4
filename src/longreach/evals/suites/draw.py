"""What generators of samples share: prompts filled up to a length, in the model's own tokens."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from longreach.errors import ContextError, UsageError
from longreach.models.sharing import encode
from longreach.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PromptParts(NamedTuple):
    """A prompt in the parts of `Sample`."""

    before: str
    context: str
    after: str


class Drawn(NamedTuple):
    """What a task draws from one stream of chance: a prompt, the bare question, what is right."""

    parts: PromptParts
    question: str
    answers: tuple[str, ...]


def check(tasks: Sequence[str], known: Sequence[str], suite: str, samples: int) -> None:
    """Raises UsageError for tasks that a suite does not have, and counts of samples below one."""
    for task in tasks:
        if task not in known:
            raise UsageError(f"{suite} has no task '{task}': its tasks are {', '.join(known)}.")
    if not tasks or samples < 1:
        raise UsageError(
            f"{suite} needs one task and one sample a task at least, not {len(tasks)} and"
            f" {samples}."
        )


def count_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Returns the tokens of a prompt, with those that the tokenizer puts around every text."""
    return len(encode(tokenizer, text, verbose=False)["input_ids"])


def piece_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[int]:
    """Returns the tokens of each of many pieces of a prompt, counted in one call."""
    # Tokenizers refuse empty batches.
    if not texts:
        return []
    encoded = encode(tokenizer, list(texts), add_special_tokens=False, verbose=False)
    return list(map(len, encoded["input_ids"]))


def fit(
    tokenizer: PreTrainedTokenizerBase,
    assemble: Callable[[int], PromptParts],
    cost: Callable[[int], int],
    budget: int,
    *,
    least: int,
    most: int,
    what: str,
) -> int:
    """Returns how many pieces of haystack a prompt can take.

    Pieces are encoded beforehand and their tokens added up; only prompts near the budget are
    encoded whole, mostly one. The result is a function of the arguments: nothing is remembered
    from other prompts.

    Args:
        tokenizer: The model's.
        assemble: Makes the prompt with a number of pieces.
        cost: Estimates the tokens of a number of pieces; it never falls as they become more.
        budget: Tokens of the prompt at most.
        least: Pieces that there have to be.
        most: Pieces that there are.
        what: The task and its length, for what is said.

    Returns:
        A count from `least` to `most` whose prompt fits.

    Raises:
        ContextError: Not even the least fits.
    """

    def count_left(count: int) -> int:
        return budget - count_tokens(tokenizer, "".join(assemble(count)))

    fits = least
    too_many = most + 1
    left = count_left(least)
    if left < 0:
        raise ContextError(
            f"The shortest prompt of {what} takes {counted(-left, 'token')} more than that with"
            " this tokenizer: ask for a greater length."
        )
    # What pieces may cost by the estimate, corrected by the last prompt that was counted.
    affordable = cost(least) + left
    while True:
        # The estimate finds the count in one step, where it is exact.
        guess = bisect_right(range(most + 1), affordable, key=cost)
        count = min(guess, too_many) - 1
        # No count is left between the last that fits and the first that does not.
        if count <= fits:
            return fits
        left = count_left(count)
        affordable = cost(count) + left
        if left < 0:
            too_many = count
        else:
            fits = count
