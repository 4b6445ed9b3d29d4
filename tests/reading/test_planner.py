"""What is planned for a question, with prices made up: no model and no torch are needed."""

import subprocess
import sys

import pytest

from longreach.corpus.schema import DocumentInfo, PassageInfo
from longreach.corpus.search.retrieval import Passage
from longreach.engine.sampling import REQUEST
from longreach.errors import ContextError, CorpusError, NothingFound, UsageError
from longreach.reading.choice import choose
from longreach.reading.planner import Planner
from longreach.reading.policy import Policy

HEAD = 10  # positions of the template
SEPARATOR = [0, 0]


class FakePrices:
    """A character is a position; so is a vector. A separator takes two."""

    def fixed(self, question, request=REQUEST):
        return HEAD + len(request) + len(question)

    def raw(self, text):
        return [*map(ord, text), *SEPARATOR]

    def vectors_cost(self, vectors):
        return vectors + len(SEPARATOR) if vectors else 0


class FakeCorpus:
    """Passages of 20 characters and 4 vectors each; a question finds those that hold its words."""

    name = "c"

    def __init__(self, **documents):
        self._passages = {}
        for document, passages in documents.items():
            self._passages[document] = [
                PassageInfo(document, index, 20 * index, 20 * index + 20, f"{words:20}", 20, 4, f"rev-{document}")
                for index, words in enumerate(passages)
            ]

    def documents(self):
        return [DocumentInfo(name, f"rev-{name}", 0, 0, 0, 0, "") for name in self._passages]

    def passages(self, name):
        return self._passages[name]

    def search(self, query, k, retriever, document):
        scored = []
        for name, passages in self._passages.items():
            for info in passages if document in (None, name) else ():
                score = len({*query.split()} & {*info.text.split()})
                if score:
                    fields = {field: getattr(info, field) for field in PassageInfo.__slots__}
                    scored.append(Passage(**fields, score=float(score)))
        return sorted(scored, key=lambda passage: -passage.score)[:k]


CORPUS = FakeCorpus(
    ants=["an ant walks", "the ant and the bee", "an ant sleeps"],
    bees=["a bee flies", "bees make honey"],
)


def planned(question, policy, corpus=CORPUS, window=None, **more):
    return Planner(corpus, FakePrices(), window).plan(question, policy, **more)


def texts(plan):
    return ["".join(map(chr, ids)).rstrip("\0").strip() for ids in plan.text]


def test_the_best_are_read_as_text_and_the_rest_as_memory_in_document_order():
    plan = planned("ant the bee", Policy(k=3, raw=1))
    assert texts(plan) == ["the ant and the bee"]
    assert plan.memory == (("rev-ants", 0), ("rev-ants", 2))
    assert [citation.read_as for citation in plan.citations] == ["raw", "vectors", "vectors"]
    assert plan.citations[0].index == 1
    assert plan.source_tokens == 60
    assert plan.positions == FakePrices().fixed("ant the bee") + 22 + 8 + 2


def test_positions_are_the_sum_of_what_is_read():
    for policy in (Policy(), Policy.none(), Policy.passages(), Policy.compressed(), Policy.mixed(1), Policy.full()):
        plan = planned("ant", policy)
        memory = FakePrices().vectors_cost(4 * len(plan.memory))
        assert plan.positions == FakePrices().fixed("ant") + sum(map(len, plan.text)) + memory


def test_a_whole_document_is_read_as_memory_else_its_passages_that_fit():
    fixed = FakePrices().fixed("sleeps ant")
    assert planned("sleeps ant", Policy.compressed()).memory == tuple(("rev-ants", i) for i in range(3))
    assert planned("sleeps ant", Policy.compressed(budget=fixed + 14)).memory == tuple(
        ("rev-ants", i) for i in range(3)
    )
    less = planned("sleeps ant", Policy.compressed(budget=fixed + 13))
    assert less.memory == (("rev-ants", 0), ("rev-ants", 2))  # the best two, in document order
    assert [citation.read_as for citation in less.citations] == ["vectors", "vectors", "not read"]
    assert less.positions == fixed + 10


def test_a_whole_document_as_text_is_one_entry_or_refused():
    plan = planned("ant", Policy.full())
    assert len(plan.text) == 1 and len(plan.text[0]) == 62 and plan.source_tokens == 60
    assert {citation.read_as for citation in plan.citations} == {"raw"}
    with pytest.raises(ContextError, match="takes 62 positions as raw text, and the budget leaves 61"):
        planned("ant", Policy.full(budget=FakePrices().fixed("ant") + 61))


def test_a_passage_read_twice_counts_once():
    plan = planned("sleeps ant", Policy.mixed(1))
    assert len(plan.memory) == 3 and len(plan.text) == 1
    assert plan.source_tokens == 60


def test_the_first_passage_that_does_not_fit_is_cut_where_the_policy_says_so():
    budget = FakePrices().fixed("sleeps ant") + 30
    whole = planned("sleeps ant", Policy.passages(3, budget=budget))
    assert [len(ids) for ids in whole.text] == [22]
    cut = planned("sleeps ant", Policy.passages(3, budget=budget, cut=True))
    assert sorted(len(ids) for ids in cut.text) == [8, 22]
    assert all(ids[-2:] == SEPARATOR for ids in cut.text)
    assert cut.positions == budget and cut.source_tokens == 26


def test_a_document_that_no_passage_of_matches_is_read_from_its_start():
    fixed = FakePrices().fixed("why")
    plan = planned("why", Policy.passages(1, budget=fixed + 44), document="ants")
    assert texts(plan) == ["an ant walks", "the ant and the bee"]
    assert [citation.index for citation in plan.citations] == [0, 1]  # those that were read
    assert planned("why", Policy.compressed(), document="bees").memory == (("rev-bees", 0), ("rev-bees", 1))
    assert [c.read_as for c in planned("why", Policy.none(), document="ants").citations] == ["not read"] * 3


def test_the_passage_asked_about_comes_first():
    fixed = FakePrices().fixed("sleeps")
    policy = Policy(k=1, raw=1, compressed="none", budget=fixed + 25)
    assert texts(planned("sleeps", policy, document="ants")) == ["an ant sleeps"]
    asked = planned("sleeps", policy, document="ants", about=0)
    assert texts(asked) == ["an ant walks"]
    assert [citation.index for citation in asked.citations] == [0, 2]


def test_a_user_s_own_words_replace_question_and_request():
    plan = planned("ant", Policy(), words="Say what ants do.")
    assert (plan.question, plan.request) == ("Say what ants do.", "")
    assert planned("ant", Policy()).request == REQUEST
    assert plan.positions < planned("ant", Policy()).positions


def test_the_answer_fits_the_window_behind_the_prompt():
    fixed = FakePrices().fixed("ant")
    plan = planned("ant", Policy(), window=fixed + 50, max_new_tokens=20)
    assert plan.positions <= fixed + 30
    with pytest.raises(ContextError, match="exceed the model's window of 100: lower one of them"):
        planned("ant", Policy(budget=90), window=100, max_new_tokens=20)
    with pytest.raises(ContextError, match=r"The question takes \d+ positions.*lower the 20 new tokens"):
        planned("ant", Policy(), window=50, max_new_tokens=20)


@pytest.mark.parametrize(
    ("question", "policy", "error", "words"),
    [
        ("ant", Policy(budget=HEAD), ContextError, "shorten it or raise the budget"),
        ("ant", Policy(budget=HEAD + len(REQUEST) + 4), ContextError, "No passage fits"),
        ("wasp", Policy(), NothingFound, "no passage shares a word"),
        ("wasp", Policy(retriever="dense"), NothingFound, "no passage is near"),
        ("\udcff", Policy(), UsageError, "UTF-8"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(question, policy, error, words):
    with pytest.raises(error, match=words):
        planned(question, policy)


def test_nothing_is_needed_where_nothing_is_read():
    plan = planned("wasp", Policy.none())
    assert (plan.text, plan.memory, plan.citations, plan.source_tokens) == ((), (), (), 0)
    with pytest.raises(CorpusError, match="holds no documents"):
        planned("wasp", Policy(), corpus=FakeCorpus())


def test_choosing_takes_passages_without_scores():
    choice = choose(CORPUS.passages("ants"), (), 30, Policy(raw=1), FakePrices())
    assert choice.read_as_text == {("rev-ants", 0)} and choice.memory == (("rev-ants", 1),)
    assert choice.read_as(CORPUS.passages("ants")[2]) == "not read"


def test_planning_needs_no_torch():
    code = "import sys, longreach.reading.planner; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
