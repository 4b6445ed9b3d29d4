"""Answers from a corpus, with quotes of what was read for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from longreach.serving.answering.citations import Quoter
from longreach.serving.answering.question import Question
from longreach.serving.answering.writing import LENGTH, STOP, Outcome

if TYPE_CHECKING:
    from longreach.serving.state import Searched
    from longreach.session.session import Session


class GroundedDraft:
    """An answer from a corpus, while it is written.

    Args:
        session: The corpus.
        question: The question.
        quoter: Verifies its citations.
        searched: The files of the vector store, and in which of them passages are looked for.
    """

    def __init__(
        self,
        session: Session,
        question: Question,
        quoter: Quoter,
        searched: Searched,
    ) -> None:
        self._session = session
        self._quoter = quoter
        self._searched = searched
        self._most = question.sampling.max_new_tokens
        self._stream = session.stream(
            question.text,
            document=question.reading.document,
            policy=question.reading.make_policy(session.reader.policy),
            sampling=question.sampling,
            history=question.history,
            among=searched.among,
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream)

    def cancel(self) -> None:
        """Ends it with what there is of it."""
        self._stream.cancel()

    def sum_up(self, text: str, stopped: bool) -> Outcome:
        """Returns what it came to; see `Draft.sum_up`."""
        answer = self._stream.answer
        assert answer is not None, "the stream was read to its end"
        usage = answer.usage
        is_full = usage.answer_tokens == self._most and not stopped
        quotes = self._quoter.quote(self._session.corpus, answer.passages, self._searched.members)
        return Outcome(
            text,
            LENGTH if is_full else STOP,
            usage.positions,
            usage.cached,
            usage.answer_tokens,
            answer.timings.first_token_seconds,
            answer.timings.total_seconds,
            answer,
            quotes,
            self._searched.waiting,
        )
