"""Counts and their nouns agree; no message of the package builds a plural by hand."""

import re
from pathlib import Path

import pytest

from longreach.wording import counted, noun_of

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "longreach"


@pytest.mark.parametrize(
    "number, noun, said",
    [
        (0, "question", "0 questions"),
        (1, "question", "1 question"),
        (2, "question", "2 questions"),
        (1024, "token", "1,024 tokens"),
        (1, "query", "1 query"),
        (3, "query", "3 queries"),
        (2, "key", "2 keys"),
        (2, "box", "2 boxes"),
        (2, "batch", "2 batches"),
    ],
)
def test_a_noun_has_the_form_that_its_number_takes(number, noun, said):
    assert counted(number, noun) == said and said.endswith(noun_of(number, noun))


def test_irregular_plurals_are_given():
    assert (counted(1, "corpus", "corpora"), counted(2, "corpus", "corpora")) == ("1 corpus", "2 corpora")


def test_nobody_counts_by_hand():
    """In what commands print, a number and the plural of its noun come from `counted`."""
    nouns = "passages|documents|tokens|questions|files|versions|samples|steps|runs|positions|vectors|pages|layers"
    by_hand = re.compile(rf"\{{[\w.()\[\]']+(?::,)?\}} (?:raw |new )?(?:{nouns})\b|'s' (?:\*|if)|\"s\" (?:\*|if)")
    found = []
    for path in sorted((PACKAGE / "cli").glob("*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        found += [
            f"{path.name}:{number}: {line.strip()}" for number, line in enumerate(lines, 1) if by_hand.search(line)
        ]
    assert found == [line for line in found if "of kinds that are not read" in line]
