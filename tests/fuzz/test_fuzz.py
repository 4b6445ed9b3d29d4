"""A small share of every fuzzer; `make fuzz` runs them in full, and with other seeds."""

import pytest

from tests.fuzz.__main__ import fuzz

SEED = 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"), [("documents", 200), ("corpora", 40), ("others", 200), ("kills", 8), ("threads", 60)]
)
def test_no_promise_is_broken(name, count, tmp_path):
    tally = fuzz(name, count, SEED, tmp_path)
    assert tally.tried >= count and tally.failures == [], f"seed {SEED}: {tally.failures}"
