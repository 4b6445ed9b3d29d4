"""The gate on a corpus whose adapter knows its answers by heart, and on one without."""

import json
from dataclasses import replace

import pytest

from longreach import Policy, Reader, Sampling
from longreach.corpus.artefacts import Artefacts
from longreach.datasets.questions import Question
from longreach.engine.engine import Engine
from longreach.engine.request import Handle, Progress
from longreach.errors import CorpusDamaged, UsageError
from longreach.evals.gate.gate import ADAPTER_OFF, SAME_POSITIONS, WRONG_DOCUMENT, gate
from longreach.evals.gate.verdict import DEFAULT
from longreach.reading.scorecard import Scorecard
from longreach.training.study.study import study
from tests.conftest import make_model, make_tokenizer
from tests.training.studied import QUESTIONS, make_corpus, settings

BUDGET = 300


def enough(patch, count=2):
    """Lets few questions tell one way of reading from another, so that tests take no minutes."""
    patch.setattr("longreach.evals.gate.verdict.FEWEST_QUESTIONS", count)
    patch.setattr("longreach.evals.scores.intervals.FEWEST", count)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    corpus, model, said = make_corpus(tmp_path_factory.mktemp("store")), make_model(), []
    chosen = settings(50, lora_rank=16, lora_alpha=32, lora_dropout=0.0, batch_size=5, accumulate=1, save_every=1000)
    study(corpus, model, make_tokenizer(), QUESTIONS, chosen, say=said.append)
    reader = Reader(corpus, model, make_tokenizer(), policy=Policy())
    with pytest.MonkeyPatch.context() as patch:
        enough(patch)
        card = gate(reader, QUESTIONS, BUDGET, max_new_tokens=12, say=said.append)
    card.save(corpus)
    return corpus, model, reader, card


def rows(card):
    return {row.reading: row for row in card.rows}


@pytest.mark.slow
def test_compressed_reading_wins_where_it_was_learned(measured):
    _, _, reader, card = measured
    found = rows(card)
    assert set(found) == {
        DEFAULT, "no context", "compressed", "raw", "mixed", "full", SAME_POSITIONS, WRONG_DOCUMENT, ADAPTER_OFF,
    }  # fmt: skip
    assert card.chosen == "compressed" and card.best.policy == Policy(raw=0, compressed="document", budget=BUDGET)
    best = found["compressed"]
    assert (best.f1, best.exact_match, best.rouge_l, best.f1_low) == (100, 100, 100, 100)
    assert found[WRONG_DOCUMENT].f1 <= 40 and found[WRONG_DOCUMENT].policy is None
    assert found[ADAPTER_OFF].f1 == 0
    assert (card.questions, card.budget, card.adapter) == (5, BUDGET, reader.adapter)
    assert card.why.startswith("'compressed' beats the default policy by +") and "on 5 questions" in card.why


def test_every_row_is_what_the_reader_does(measured):
    """The rows come from answers that anybody gets with their policy."""
    _, _, reader, card = measured
    for row in card.rows:
        if row.policy and row.questions == 5:
            answers = [
                reader.ask(q.question, document=q.document, policy=row.policy, sampling=Sampling(12)) for q in QUESTIONS
            ]
            assert row.positions == sum(answer.usage.positions for answer in answers) / 5
            assert row.policy.name in (row.reading.removesuffix(", adapter off"), "mixed")
            right = sum(answer.text == q.answers[0] for answer, q in zip(answers, QUESTIONS, strict=True))
            assert row.exact_match == 100 * right / 5
            assert {answer.policy for answer in answers} == {row.policy.name}


def test_positions_are_equal_where_they_should_be_and_within_the_budget(measured):
    found = rows(measured[3])
    assert found[SAME_POSITIONS].positions == found["compressed"].positions
    assert found["no context"].positions < found["compressed"].positions
    assert all(row.positions <= BUDGET for row in measured[3].rows if row.reading != "full")
    assert found["raw"].positions > 250  # a cut passage fills it
    assert found["full"].positions > BUDGET and found["full"].questions == 5


def test_the_reader_takes_what_was_measured_with_its_adapter(measured, tmp_path):
    corpus, model, reader, card = measured
    assert Scorecard.load(corpus.artefacts) == card and corpus.verify().ok
    taken = Reader(corpus, model, make_tokenizer())
    assert taken.policy == card.best.policy and taken.scorecard == card
    assert taken.ask("How is it?", document="queen", sampling=Sampling(12)).text == "red"
    assert taken.ask("How is the queen?", policy=Policy(raw=1, budget=BUDGET), sampling=Sampling(2)).policy == "mixed"
    assert reader.scorecard is None and reader.policy == Policy()  # it was given one
    with corpus.changing("study"):
        (corpus.path / "adapter").rename(tmp_path / "adapter")
    bare = Reader(corpus, make_model(), make_tokenizer())
    assert bare.scorecard is None and bare.policy == Policy()
    elsewhere = Reader(corpus, make_model(), make_tokenizer(), tmp_path / "adapter")
    assert elsewhere.policy == card.best.policy  # the same adapter, whichever folder it lies in
    with corpus.changing("study"):
        (tmp_path / "adapter").rename(corpus.path / "adapter")


def test_a_scorecard_is_whole_of_this_release_or_refused(measured, tmp_path):
    card = measured[3]
    assert Scorecard.load(Artefacts(tmp_path)) is None
    (tmp_path / "scorecard.json").write_text(json.dumps(card.to_dict() | {"format": 1}))
    assert Scorecard.load(Artefacts(tmp_path)) is None
    for spoiled in ("{", "[]", json.dumps(card.to_dict() | {"chosen": "nothing"}), '{"format": 2}'):
        (tmp_path / "scorecard.json").write_text(spoiled)
        with pytest.raises(CorpusDamaged, match="--gate-only"):
            Scorecard.load(Artefacts(tmp_path))


def fake_answers(monkeypatch, wanted):
    """The reader answers right with the readings named, wrong with the others."""

    def submit(self, request):
        progress = Progress(request.began)
        progress.add(0)
        progress.finish(0, 0, "stop")
        return Handle(progress, lambda progress, given: None)

    monkeypatch.setattr(Engine, "submit", submit)
    real = Reader._answer

    def answer(self, plan, *arguments):
        found = real(self, plan, *arguments)
        return replace(found, text="yes" if found.policy in wanted else "no")

    monkeypatch.setattr(Reader, "_answer", answer)


@pytest.mark.parametrize(
    "right, budget, chosen",
    [
        (("raw", "compressed"), 900, "compressed"),  # ties go to fewer positions
        (("raw",), 900, "raw"),
        (("full",), 900, "full"),
        (("full", "compressed"), 200, "compressed"),  # the full text does not fit the budget
        (("mixed", "raw"), 900, DEFAULT),  # which is a mixture: others that are as good do not beat it
        (("no context",), 900, DEFAULT),  # a control is never chosen
        ((), 900, DEFAULT),
    ],
)
def test_the_best_that_fits_is_chosen(tmp_path, monkeypatch, right, budget, chosen):
    corpus = make_corpus(tmp_path)
    fake_answers(monkeypatch, right)
    reader = Reader(corpus, make_model(), make_tokenizer())
    enough(monkeypatch)
    questions = [Question("queen", "How is the queen?", ("yes",)), Question(None, "How is the queen?", ("yes",))]
    card = gate(reader, questions, budget, max_new_tokens=12)
    assert card.chosen == chosen and (card.why.startswith("The default policy stays: ")) == (chosen == DEFAULT)
    assert ADAPTER_OFF not in rows(card) and card.adapter is None


def test_few_questions_leave_the_default_policy(tmp_path, monkeypatch):
    corpus, said = make_corpus(tmp_path), []
    fake_answers(monkeypatch, ("raw",))
    reader = Reader(corpus, make_model(), make_tokenizer())
    question = Question("queen", "How is the queen?", ("yes",))
    card = gate(reader, [question] * 3, 900, max_new_tokens=12, say=said.append)
    assert card.chosen == DEFAULT and card.why == "The default policy stays: 3 questions cannot tell, it takes 30."
    assert card.best.policy == Policy(budget=900) and said[-1] == f"gate: {card.why}"
    card.save(corpus)
    assert Reader(corpus, make_model(), make_tokenizer()).policy == Policy(budget=900)


def test_a_document_beyond_the_window_leaves_full_reading_out(tmp_path, monkeypatch):
    model = make_model(max_position_embeddings=400)
    corpus = make_corpus(tmp_path, model=model)
    fake_answers(monkeypatch, ("full",))
    reader = Reader(corpus, model, make_tokenizer())
    questions = [Question("queen", "How is the queen?", ("yes",)), Question("tarts", "How is it?", ("yes",))]
    card = gate(reader, questions, 380, max_new_tokens=12)
    assert rows(card)["full"].questions == 1 and rows(card)["full"].f1 == 100
    assert card.chosen != "full"  # it was not asked the same questions
    assert "full" not in rows(gate(reader, questions[:1], 380, max_new_tokens=12))
    enough(monkeypatch)
    short = gate(reader, questions[1:] * 2, 380, max_new_tokens=12)  # nobody asked about the one that does not fit
    assert rows(short)["full"].f1 == 100 and short.chosen != "full"
    assert (
        reader.ask("How is the queen?", document="queen", policy=short.best.policy, sampling=Sampling(12)).policy
        == short.best.policy.name
    )


def test_full_reading_that_exceeds_the_memory_is_left_out(tmp_path, monkeypatch):
    corpus = make_corpus(tmp_path)
    fake_answers(monkeypatch, ("full",))
    reader, real = Reader(corpus, make_model(), make_tokenizer()), Reader.ask

    def full(self, question, **options):
        if options["policy"].raw == "document":
            raise MemoryError
        return real(self, question, **options)

    monkeypatch.setattr(Reader, "ask", full)
    card = gate(reader, [Question("queen", "How is the queen?", ("yes",))], 900, max_new_tokens=2)
    assert "full" not in rows(card) and card.chosen == DEFAULT


def test_one_document_has_no_wrong_one_and_no_questions_are_refused(tmp_path, monkeypatch):
    corpus = make_corpus(tmp_path)
    corpus.remove(["tarts", "whale", "watch"])
    fake_answers(monkeypatch, ())
    reader = Reader(corpus, make_model(), make_tokenizer())
    assert WRONG_DOCUMENT not in rows(gate(reader, [Question(None, "How?", ("yes",))], BUDGET, max_new_tokens=2))
    with pytest.raises(UsageError, match="--evaluation"):
        gate(reader, [])


def test_a_question_that_no_passage_matches_counts_as_answered_with_nothing(tmp_path):
    corpus, said = make_corpus(tmp_path), []
    reader = Reader(corpus, make_model(), make_tokenizer(), policy=Policy())
    lost = Question(None, "Zusammenfassung?", ("white",))
    known = Question(None, "What is the whale?", ("white",))
    card = gate(reader, [known, lost], BUDGET, max_new_tokens=4, say=said.append)
    assert {row.questions for row in card.rows} == {2}
    assert "gate: 1 of 2 questions share no word with any passage: answered with nothing." in said
    (answer,) = reader.ask_many([lost.question], policy=card.best.policy)
    assert answer.text == ""
