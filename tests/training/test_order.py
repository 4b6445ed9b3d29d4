"""The order of rows: complete, deterministic, within bounds, and as long as it should be."""

from collections import Counter

import numpy as np
import pytest

from longreach.errors import DocumentError, UsageError
from longreach.training.extend.order import Mix, Order

LENGTHS = [np.array([5, 700, 1, 64, 130, 2, 33, 257]), np.array([90, 12, 12, 400])]


def mix(**changes):
    return Mix(**({"length": 128, "capacity": 256, "long_tokens": 10**9, "seed": 3} | changes))


def rectangles(order, count, start=0):
    return [order[i] for i in range(start, start + count)]


def test_an_epoch_has_every_row_once():
    order = Order(LENGTHS, mix())
    for epoch in range(3):
        start = order.rectangles(epoch)
        rows = [row for one in rectangles(order, order.rectangles(epoch + 1) - start, start) for row in one]
        covered = [{(row.source, i) for row in rows for i in range(row.start, row.start + row.tokens)}]
        # The document of one token, and the last token of the one of 257: alone they predict nothing.
        assert len(covered[0]) == sum(of.sum() for of in LENGTHS) - 2 == sum(row.tokens for row in rows)


def test_a_row_is_one_document_and_a_rectangle_keeps_its_bounds():
    order = Order(LENGTHS, mix())
    for one in rectangles(order, 40):
        assert len(one) * order.mix.width(one[0].tokens) <= 256
        assert [row.tokens for row in one] == sorted((row.tokens for row in one), reverse=True)
        for row in one:
            ends = np.cumsum(LENGTHS[row.source])
            document = np.searchsorted(ends, row.start, side="right")
            assert row.start + row.tokens <= ends[document] and 2 <= row.tokens <= 128
            assert (row.start - (ends[document] - LENGTHS[row.source][document])) % 128 == 0


def test_it_is_a_function_of_the_seed_and_the_place():
    forwards = rectangles(Order(LENGTHS, mix()), 60)
    late = Order(LENGTHS, mix())
    assert [late[i] for i in (59, 3, 31, 0)] == [forwards[i] for i in (59, 3, 31, 0)]
    assert rectangles(Order(LENGTHS, mix(seed=4)), 60) != forwards
    epoch = late.rectangles()
    assert forwards[:epoch] != forwards[epoch : 2 * epoch]


def test_long_documents_are_drawn_more_often_and_sources_keep_their_share():
    chance = np.random.default_rng(0)
    lengths = [chance.integers(20, 120, 300), chance.integers(20, 120, 100)]
    order = Order(lengths, mix(long_tokens=100, long_weight=4.0))
    epochs = 40
    drawn, tokens = Counter(), Counter()
    for row in (row for one in rectangles(order, order.rectangles(epochs)) for row in one):
        drawn[row.source, row.start] += 1
        tokens[row.source] += row.tokens
    for source, of in enumerate(lengths):
        starts = np.cumsum(of) - of
        weight = np.where(of >= 100, 4.0, 1.0)
        expected = weight * of.sum() / (weight * of).sum() * epochs
        counts = np.array([drawn[source, start] for start in starts])
        assert np.abs(counts - expected).max() <= 1 + 1e-9  # not a matter of luck
        assert 0.98 < tokens[source] / (of.sum() * epochs) < 1.02
        share = order.shares()[source]
        assert share["share"] == pytest.approx(of.sum() / sum(o.sum() for o in lengths))
        assert share["long_share_before"] == pytest.approx(of[of >= 100].sum() / of.sum())
        assert share["long_share"] > 1.5 * share["long_share_before"]


def test_rows_of_one_length_lie_together():
    lengths = [np.random.default_rng(1).integers(2, 128, 4000)]
    order = Order(lengths, mix(capacity=1024, multiple=1))
    count = order.rectangles()
    waste = 1 - sum(order.tokens(i) for i in range(count)) / sum(order.slots(i) for i in range(count))
    assert waste < 0.02  # rows in the order they come would waste about half
    firsts = [order[i][0].tokens for i in range(count)]
    assert np.abs(np.corrcoef(firsts, range(count))[0, 1]) < 0.2  # and yet short and long rectangles come mixed


def test_held_out_documents_never_come():
    order = Order(LENGTHS, mix(), [(0, 1), (1, 3)])
    for row in (row for one in rectangles(order, 40) for row in one):
        ends = np.cumsum(LENGTHS[row.source])
        assert (row.source, int(np.searchsorted(ends, row.start, side="right"))) not in {(0, 1), (1, 3)}
    assert (LENGTHS[0] == [5, 700, 1, 64, 130, 2, 33, 257]).all()


def test_epochs_are_counted():
    order = Order(LENGTHS, mix())
    one = order.rectangles()
    assert order.epoch_of(0) == 0 and order.epoch_of(one) == 1 and 0 < order.epoch_of(one - 1) < 1


@pytest.mark.parametrize("changes", [{"length": 1}, {"capacity": 127}, {"long_tokens": 0}, {"long_weight": 0.5}])
def test_wrong_values_are_refused(changes):
    with pytest.raises(UsageError, match="at least"):
        mix(**changes)


def test_documents_of_one_token_are_not_enough():
    with pytest.raises(DocumentError, match="at least two tokens"):
        Order([np.array([1, 1, 0])], mix())
