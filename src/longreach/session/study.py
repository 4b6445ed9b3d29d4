"""The life of one study: questions, training, the gate, the scorecard."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from longreach.engine.sampling import Sampling
from longreach.errors import UsageError
from longreach.evals.gate.gate import gate
from longreach.jsontext import JsonObject
from longreach.models.decoder import window_of
from longreach.reading.policy import DEFAULT_BUDGET, Policy
from longreach.reading.reader import Reader
from longreach.reading.scorecard import Scorecard
from longreach.training.common.trackers import check_trackers
from longreach.training.study.questions import QuestionGathering, StudyQuestions
from longreach.training.study.selfstudy import OwnModel
from longreach.training.study.settings import StudySettings
from longreach.training.study.study import StudyReport, study
from longreach.training.study.undo import keep_state, last_kept
from longreach.wording import counted, say_on_stderr

if TYPE_CHECKING:
    from longreach.session.session import Session


class StudyResult(NamedTuple):
    """What a study did.

    Attributes:
        training: What the training did; None where it only measured.
        scorecard: How well each way of reading answers.
        dropped: How many of the questions that were made are not used, by reason.
    """

    training: StudyReport | None
    scorecard: Scorecard
    dropped: dict[str, int]

    def to_dict(self) -> JsonObject:
        """Returns the same as plain values for JSON."""
        training = None
        if self.training is not None:
            training = self.training._asdict() | {"adapter": str(self.training.adapter)}
        return {
            "dropped": self.dropped,
            "training": training,
            "scorecard": self.scorecard.to_dict(),
        }


def run_study(
    session: "Session",
    sources: StudyQuestions,
    settings: StudySettings,
    gate_only: bool,
    say: Callable[[str], None] | None,
) -> StudyResult:
    """Studies the corpus of a session; see `Session.study`."""
    tell = say or say_on_stderr
    check_trackers(settings.report_to)
    corpus = session.corpus
    gathering = QuestionGathering(corpus, sources, settings.seed)
    tell(f"study: loading the model of '{corpus.name}'")
    model, tokenizer = session.model, session.tokenizer
    _check_budget(settings.budget, window_of(model))
    own_model = OwnModel(
        model, tokenizer, corpus.settings.model_fingerprint, batch_size=settings.batch_size
    )
    questions = gathering.gather(own_model, training=not gate_only, say=tell)

    # Tells after the training whether another adapter came in.
    kept = last_kept(corpus)
    training = None
    if not gate_only:
        learned = counted(len(questions.learned), "question")
        tell(f"study: {learned} to learn, {len(questions.tested):,} to test on")
        training = study(corpus, model, tokenizer, questions.learned, settings, say=say)
    card = gate(
        # Another one than the session's: with the adapter that was trained just now.
        Reader(corpus, model, tokenizer, policy=Policy()),
        questions.tested,
        settings.budget,
        seed=settings.seed,
        batch_size=settings.batch_size,
        say=tell,
    )
    if last_kept(corpus) == kept:
        # No other adapter came in, so the state from before was not kept yet.
        with corpus.changing("study") as artefacts:
            keep_state(artefacts)
    card.save(corpus)
    return StudyResult(training, card, questions.dropped)


def _check_budget(budget: int, window: int | None) -> None:
    """Raises UsageError where a budget that was asked for leaves no place for an answer."""
    # Nobody asked for the default, so a small window lowers it without a word.
    if budget == DEFAULT_BUDGET or not window:
        return
    left = window - Sampling.max_new_tokens
    if budget > left:
        raise UsageError(
            f"--budget is {budget}; the model's window of {window} leaves {left} beside an answer."
        )
