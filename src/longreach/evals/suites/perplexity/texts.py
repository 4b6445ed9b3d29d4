"""Held-out texts as tokens, each as many as every other's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from longreach.datasets.sources import find
from longreach.errors import UsageError
from longreach.models.sharing import encode
from longreach.wording import counted, say_on_stderr

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# More than any tokenizer reaches in the mean.
_CHARACTERS_PER_TOKEN = 16


class HeldOutText(NamedTuple):
    """A held-out text: its name, and its first token ids, as many as every other's."""

    name: str
    ids: list[int]


def read_texts(
    given: Sequence[str | Path],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    *,
    samples: int | None = None,
    say: Callable[[str], None] = say_on_stderr,
) -> list[HeldOutText]:
    """Returns the first `length` tokens of texts; those that are shorter are omitted.

    Args:
        given: Files, folders and Hub data sets, as `extend` reads them.
        tokenizer: Of the models.
        length: Tokens of each.
        samples: Texts at most, the first ones; None for all.
        say: Is told what is omitted.

    Raises:
        UsageError: No text is as long, or length is below 2.
        DocumentError: Something cannot be read.
    """
    if length < 2:
        raise UsageError(f"The length is {length}; perplexity takes at least 2 tokens.")
    found = list[HeldOutText]()
    short = 0
    taken = list[str]()
    for source in map(find, given):
        # Where a file lies does not belong into the record of a run.
        name = Path(source.name).name
        if name in taken:
            name = f"{name} ({len(taken) + 1})"
        taken.append(name)
        for number, text in enumerate(source.texts(say)):
            if len(found) == samples:
                break
            # All texts are as long, so that every bucket holds as many tokens of each.
            ids = _take_first(tokenizer, text, length)
            if len(ids) == length:
                found.append(HeldOutText(f"{name}#{number}", ids))
            else:
                short += 1
    if not found:
        raise UsageError(
            f"None of the texts has {counted(length, 'token')}: give longer ones, or ask for"
            " smaller --lengths."
        )
    if short:
        say(f"Texts of fewer than {counted(length, 'token')} are omitted: {short} of them.")
    return found


def _take_first(tokenizer: PreTrainedTokenizerBase, text: str, length: int) -> list[int]:
    """Returns the first token ids of a text, of which no more is encoded than surely is enough."""
    ids: list[int] = []
    for part in (text[: length * _CHARACTERS_PER_TOKEN], text):
        ids = list(encode(tokenizer, part, verbose=False)["input_ids"])
        # Where a part ends, its last token may be another one.
        if len(ids) > length or len(part) == len(text):
            break
    return ids[:length]
