"""Which questions a study learns, and which it is tested on. Imports no torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from longreach.datasets.held_out import check_held_out
from longreach.datasets.questions import (
    Question,
    hold_out,
    read_questions,
    without,
)
from longreach.errors import UsageError
from longreach.training.study.asking import check_per_passage

if TYPE_CHECKING:
    from longreach.corpus.store import Corpus
    from longreach.training.study.selfstudy import Author

Given = str | Path | Sequence[Question]
"""A file of JSON lines, or questions."""


@dataclass(frozen=True)
class StudyQuestions:
    """Where the questions of a study come from.

    Attributes:
        learned: A file of JSON lines, or questions; None has some made about every passage.
        tested: The same, to test on; None holds some of the others out.
        per_passage: Questions made about each passage, 1 to 5.
        teacher: Address of an OpenAI-compatible endpoint that makes them; None has the corpus' own
            model make them.
        teacher_model: Name of the model there.
        held_out: Questions that are held out: a whole number, or a share of them below 1.
    """

    learned: Given | None = None
    tested: Given | None = None
    per_passage: int = 1
    teacher: str | None = None
    teacher_model: str | None = None
    held_out: float = 0.1

    def __post_init__(self) -> None:
        if self.teacher and self.learned:
            raise UsageError(
                "--teacher makes questions and --questions gives them: leave one of them out."
            )
        check_held_out(self.held_out)
        check_per_passage(self.per_passage)


class GatheredQuestions(NamedTuple):
    """The questions of a study.

    Attributes:
        learned: None has still to be trained on.
        tested: None of these is learned.
        dropped: How many of those that were made are not used, by reason.
    """

    learned: list[Question]
    tested: list[Question]
    dropped: dict[str, int]


class QuestionGathering:
    """The questions of one study: what is given is read at once, what is missing is made later.

    Args:
        corpus: The corpus.
        sources: Where the questions come from.
        seed: Of those that are made, and of those that are held out.

    Raises:
        DataError: A file cannot be read, or a line of it is no question.
        UsageError: There is only one question, or the teacher has no address or no name.
    """

    def __init__(self, corpus: "Corpus", sources: StudyQuestions, seed: int) -> None:
        self._corpus = corpus
        self._sources = sources
        self._seed = seed
        self._endpoint: Author | None = None
        if sources.teacher:
            from longreach.training.study.teacher import Endpoint

            self._endpoint = Endpoint(sources.teacher, sources.teacher_model)
        names = [document.document for document in corpus.documents()]
        self._learned = _read(sources.learned, names, corpus.name)
        self._tested = _read(sources.tested, names, corpus.name)
        if self._learned and not self._tested:
            # It may refuse: before a model is loaded for nothing.
            hold_out(self._learned, sources.held_out, seed)

    def gather(
        self, own_model: "Author", *, training: bool, say: Callable[[str], None]
    ) -> GatheredQuestions:
        """Returns the questions, and makes those that nobody gave.

        Args:
            own_model: The corpus' own model, which makes them where there is no teacher.
            training: Whether some are learned; else questions to test on are enough.
            say: Is told how far the making is.

        Raises:
            UsageError: No question could be made, or only one.
        """
        learned = self._learned
        dropped: dict[str, int] = {}
        # Made questions are needed to learn from, or else to hold some of them out for the test.
        if learned is None and (training or not self._tested):
            learned, dropped = self._make(self._endpoint or own_model, say)
        if self._tested:
            # A question of the test must not be learned, even where a user gave it twice.
            rest = without(learned or [], self._tested)
            return GatheredQuestions(rest, self._tested, dropped)
        split = hold_out(learned or [], self._sources.held_out, self._seed)
        return GatheredQuestions(split.learned, split.held_out, dropped)

    def _make(
        self, author: "Author", say: Callable[[str], None]
    ) -> tuple[list[Question], dict[str, int]]:
        from longreach.training.study.folder import QUESTIONS, working
        from longreach.training.study.selfstudy import make_questions

        # Two studies of one corpus must not write into one file of questions.
        with working(self._corpus) as work:
            made = make_questions(
                self._corpus,
                author,
                work / QUESTIONS,
                per_passage=self._sources.per_passage,
                seed=self._seed,
                say=say,
            )
        return made.questions, made.dropped


def _read(given: Given | None, documents: Sequence[str], corpus: str) -> list[Question] | None:
    if given is None:
        return None
    if isinstance(given, str | Path):
        return read_questions(given, documents, corpus)
    return list(given)
