"""The suites by name: which tasks are asked with the data at hand, and what decides the samples."""

import pytest

from longreach.errors import ContextError, UsageError
from longreach.evals.suites.choice import Choice, check_readers, default_readers
from longreach.evals.suites.registry import check_window, samples_of
from longreach.evals.suites.ruler import TASKS
from tests.conftest import make_model


def test_ruler_without_files_asks_what_needs_none_and_says_so(tokenizer):
    said = []
    found = samples_of(Choice("ruler", lengths=(16000,), samples=1), tokenizer, said.append)
    assert [sample.task for sample in found] == [task for task in TASKS if not task.startswith("qa_")]
    assert len(said) == 2 and all(text.startswith(("qa_1 is left out", "qa_2 is left out")) for text in said)


def test_lengths_come_one_after_the_other(tokenizer):
    for suite, task in (("niah", "niah"), ("babilong", "qa1")):
        found = samples_of(Choice(suite, (task,), (2500, 3000), samples=2, depths=2), tokenizer, print)
        assert [sample.length for sample in found] == sorted(sample.length for sample in found)
        assert {sample.task for sample in found} == {task} and len({sample.id for sample in found}) == len(found)


def test_settings_name_what_decides_the_samples():
    niah = Choice("niah", lengths=(8,), haystack="/home/me/prose.txt").settings()
    assert niah == {"tasks": [], "samples": None, "data": [], "lengths": [8], "haystack": "prose.txt", "depths": 11}
    docqa = Choice("docqa", data={"qmsum": "/home/me/val.jsonl"}, max_new_tokens=9).settings()
    assert docqa == {"tasks": [], "samples": None, "data": ["qmsum"], "split": None, "max_new_tokens": 9}


def test_who_reads_what():
    assert default_readers("ruler", mean_pool=True, adapter=True) == ("full", "hybrid", "sink-window")
    ways = default_readers("docqa", mean_pool=False, adapter=True)
    assert ways == ("full", "none", "truncated", "bm25", "mean-pool", "compressed", "mixed", "bm25+adapter")
    check_readers([*ways, "kvpress:SnapKVPress:0.5"], "docqa")
    for name, suite in (("mixed", "ruler"), ("mixed+adapter", "docqa"), ("kvpress", "perplexity")):
        with pytest.raises(UsageError, match="There is no reader"):
            check_readers([name], suite)


def test_a_window_is_for_lengths_and_not_for_documents():
    model = make_model(max_position_embeddings=100)
    check_window(Choice("niah", lengths=(100,)), model, beyond=False)
    check_window(Choice("niah", lengths=(101,)), model, beyond=True)
    check_window(Choice("docqa"), model, beyond=False)
    with pytest.raises(ContextError, match="101 is beyond the model's window of 100"):
        check_window(Choice("niah", lengths=(50, 101)), model, beyond=False)
