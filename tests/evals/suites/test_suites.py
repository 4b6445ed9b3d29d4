"""Suites by name: which tasks are asked with the data at hand, what decides the samples, who answers."""

from types import SimpleNamespace

import pytest

from longreach.errors import ContextError, UsageError
from longreach.evals.suites.babilong.suite import BabilongSuite
from longreach.evals.suites.base import Suite
from longreach.evals.suites.docqa.suite import DocumentSuite
from longreach.evals.suites.niah.suite import NeedleSuite
from longreach.evals.suites.perplexity.suite import PerplexitySuite
from longreach.evals.suites.registry import find_suite, register, suites
from longreach.evals.suites.ruler.samples import TASKS
from longreach.evals.suites.ruler.suite import RulerSuite
from longreach.evals.systems.names import MODELS
from tests.conftest import make_model


def test_ruler_without_files_asks_what_needs_none_and_says_so(tokenizer):
    said = []
    found = RulerSuite(lengths=(16000,), samples=1).make_samples(tokenizer, said.append)
    assert [sample.task for sample in found] == [task for task in TASKS if not task.startswith("qa_")]
    assert len(said) == 2 and all(text.startswith(("qa_1 is omitted", "qa_2 is omitted")) for text in said)


def test_lengths_come_one_after_the_other(tokenizer):
    needles = NeedleSuite(tasks=("niah",), lengths=(2500, 3000), samples=2, depths=2)
    facts = BabilongSuite(tasks=("qa1",), lengths=(2500, 3000), samples=2)
    for suite in (needles, facts):
        found = suite.make_samples(tokenizer, print)
        assert [sample.length for sample in found] == sorted(sample.length for sample in found)
        assert {sample.task for sample in found} == set(suite.tasks)
        assert len({sample.id for sample in found}) == len(found)


def test_settings_name_what_decides_the_samples():
    niah = NeedleSuite(lengths=(8,), haystack="/home/me/prose.txt").settings()
    assert niah == {"tasks": [], "samples": None, "data": [], "lengths": [8], "haystack": "prose.txt", "depths": 11}
    docqa = DocumentSuite(data={"qmsum": "/home/me/val.jsonl"}, max_new_tokens=9).settings()
    assert docqa == {"tasks": [], "samples": None, "data": ["qmsum"], "split": None, "max_new_tokens": 9}
    perplexity = PerplexitySuite(data=("/home/me/held.jsonl",)).settings()
    assert perplexity == {"tasks": [], "samples": None, "data": [], "lengths": [4096]}


def subject(method, adapter):
    return SimpleNamespace(memory_settings={"method": method}, own_adapter=adapter)


def test_who_answers_what():
    assert RulerSuite().default_systems(subject("mean-pool", "lora")) == ("full", "hybrid", "sink-window") == MODELS
    systems = DocumentSuite().default_systems(subject("autocompressor", "lora"))
    assert systems == ("full", "none", "truncated", "bm25", "mean-pool", "compressed", "mixed", "bm25+adapter")
    systems = DocumentSuite().default_systems(subject("mean-pool", None))
    assert systems == ("full", "none", "truncated", "bm25", "compressed", "mixed")
    DocumentSuite.check_systems([*systems, "kvpress:SnapKVPress:0.5"])
    for name, suite in (("mixed", RulerSuite), ("mixed+adapter", DocumentSuite), ("kvpress", PerplexitySuite)):
        with pytest.raises(UsageError, match=f"There is no system .* of {suite.name}"):
            suite.check_systems([name])


def test_a_window_is_for_lengths_and_not_for_documents():
    model = make_model(max_position_embeddings=100)
    NeedleSuite(lengths=(100,)).check_window(model, beyond=False)
    NeedleSuite(lengths=(101,)).check_window(model, beyond=True)
    DocumentSuite().check_window(model, beyond=False)
    with pytest.raises(ContextError, match="101 is beyond the model's window of 100"):
        NeedleSuite(lengths=(50, 101)).check_window(model, beyond=False)


def test_words_become_values_and_what_is_not_given_keeps_its_default():
    suite = RulerSuite.from_words(
        {"lengths": "9,10", "data": ["qa_1=x", "qa_2=y=z"], "samples": None, "tasks": "vt, cwe"}
    )
    assert suite == RulerSuite(lengths=(9, 10), data={"qa_1": "x", "qa_2": "y=z"}, tasks=("vt", "cwe"))
    assert (suite.samples, suite.seed, suite.haystack) == (None, 42, None)
    with pytest.raises(UsageError, match="--data is 'x'; give NAME=PATH"):
        RulerSuite.from_words({"data": ["x"]})


def test_every_option_is_a_field_whose_default_is_allowed():
    for name, made in suites().items():
        if name != "perplexity":  # which needs texts
            suite = made()
            assert {option.name for option in suite.options()} <= set(vars(suite))
    assert "tasks" not in {option.name for option in PerplexitySuite.options()}


def test_two_suites_of_one_name_are_refused():
    class Other(Suite):
        name = "niah"

    with pytest.raises(UsageError, match="a suite 'niah' already"):
        register(Other)
    assert register(NeedleSuite) is NeedleSuite is find_suite("niah")
