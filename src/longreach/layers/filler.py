"""The text around the facts of a probe: made of templates, or taken from a text of the user's."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from longreach.layers.words import draw_name

_WHEN = ("In spring", "After the harvest", "Toward evening", "Most winters", "Before the fair")
_WHO = ("the millers", "two surveyors", "the ferry crew", "a retired clerk", "the apprentices")
_DID = ("repaired", "measured", "painted", "argued about", "swept", "drew a plan of", "carried")
_WHAT = ("the old footbridge", "a stack of ledgers", "the north fence", "some empty barrels")
_WHY = (
    "because rain had been promised",
    "while the dogs waited outside",
    "and nobody wrote it down",
    "although the road was closed",
    "as their parents had done",
)
_SENTENCE_END = re.compile(r"(?<=[.!?]) ")


def draw_sentences(chance: random.Random) -> Iterator[str]:
    """Yields sentences that hold nothing worth finding, without end."""
    while True:
        yield (
            f"{chance.choice(_WHEN)}, {chance.choice(_WHO)} of {draw_name(chance)}"
            f" {chance.choice(_DID)} {chance.choice(_WHAT)} {chance.choice(_WHY)}."
        )


def read_sentences(text: str, chance: random.Random) -> Iterator[str]:
    """Yields the sentences of a user's text from a place of chance on, around its end, for ever."""
    sentences = _SENTENCE_END.split(" ".join(text.split()))
    start = chance.randrange(len(sentences))
    while True:
        yield from sentences[start:]
        start = 0
