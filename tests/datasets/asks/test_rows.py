"""Rows that ask: their length, where replies and evidence lie, and the same row for the same number."""

from itertools import islice

import numpy as np
import pytest

from longreach.datasets.asks.kinds import KINDS
from longreach.datasets.asks.rows import RowMaker
from longreach.errors import UsageError
from tests.conftest import make_tokenizer

TOKENIZER = make_tokenizer()
PROSE = np.array(TOKENIZER("Somebody walked on. It rained all day! Nobody spoke. " * 400)["input_ids"])


def fill(chance, tokens):
    start = chance.randrange(len(PROSE) - tokens)
    return PROSE[start : start + tokens]


def make(*kinds, **options):
    return RowMaker(TOKENIZER, fill, kinds=kinds or tuple(KINDS), **options)


def text_of(row, span):
    return TOKENIZER.decode(row.ids[span.start : span.stop])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens, beyond, after", [(1500, 0, 0), (4001, 1024, 64), (6000, 3000, 128)])
def test_rows_have_their_length_and_their_evidence_out_of_reach(kind, tokens, beyond, after):
    for number in range(10):
        row = make(kind).make(number, tokens, beyond=beyond, after=after)
        assert row.ids.shape == (tokens,) and row.ids.dtype == np.int64 and row.replies
        for reply in row.replies:
            assert reply.kind == kind and reply.evidence
            assert reply.distance == reply.tokens.start - max(span.stop for span in reply.evidence)
            assert reply.distance >= beyond
            assert min(span.start for span in reply.evidence) >= after
        # Nothing stands behind the last reply.
        assert row.replies[-1].tokens.stop == tokens


@pytest.mark.parametrize("kind", KINDS)
def test_evidence_says_what_the_reply_says(kind):
    asked = 0
    for number in range(12):
        row = make(kind).make(number, 3000, beyond=500)
        for reply in row.replies:
            answer = text_of(row, reply.tokens)
            assert answer.startswith(" ") and answer.endswith(".")
            told = " ".join(text_of(row, span) for span in reply.evidence)
            for part in answer.strip(" .").split(", "):
                assert part in told, (answer, told)
            asked += 1
    assert asked >= 12


def test_values_come_in_the_order_of_the_text():
    for number in range(8):
        row = make("values").make(number, 3000)
        for reply in row.replies:
            starts = [span.start for span in reply.evidence]
            assert starts == sorted(starts) and len(starts) >= 2
            parts = text_of(row, reply.tokens).strip(" .").split(", ")
            for part, span in zip(parts, reply.evidence, strict=True):
                assert part in text_of(row, span)


def test_a_chain_ends_at_the_value_of_its_first_line():
    for number in range(20):
        row = make("links").make(number, 3000)
        for reply in row.replies:
            lines = [text_of(row, span) for span in reply.evidence]
            names = [word for word in text_of(row, reply.tokens).strip(" .").split(", ") if word.isalpha()]
            for name, line in zip(names, lines, strict=False):
                assert name in line
            if not names:  # a value is asked for: each line names what the one before it did
                assert text_of(row, reply.tokens).strip(" .") in lines[0]


def test_the_same_number_is_the_same_row_and_another_one_another():
    rows = list(islice(make().rows(2000, beyond=300), 6))
    again = make()
    assert np.array_equal(again.make(4, 2000, beyond=300).ids, rows[4].ids)
    assert again.make(4, 2000, beyond=300).replies == rows[4].replies
    assert [row.ids.tolist() for row in islice(again.rows(2000, beyond=300, first=4), 2)] == [
        row.ids.tolist() for row in rows[4:]
    ]
    assert len({row.ids.tobytes() for row in rows}) == 6
    assert not np.array_equal(make(seed=1).make(4, 2000, beyond=300).ids, rows[4].ids)


def test_all_kinds_come():
    kinds = {row.replies[0].kind for row in islice(make().rows(2000), 60)}
    assert kinds == set(KINDS)


@pytest.mark.parametrize("tokens, beyond", [(40, 0), (400, 390)])
def test_too_few_tokens_are_refused(tokens, beyond):
    with pytest.raises(UsageError, match="give longer rows or a smaller window"):
        make("values").make(0, tokens, beyond=beyond)


@pytest.mark.parametrize("kinds", [("riddles",), ()])
def test_unknown_kinds_are_refused(kinds):
    with pytest.raises(UsageError, match="give some of entries, keys, values"):
        RowMaker(TOKENIZER, fill, kinds=kinds)
