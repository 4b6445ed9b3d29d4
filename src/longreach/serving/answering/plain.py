"""Answers of a model to a prompt that was put together here, without a reader."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from longreach.engine.engine import engine_of
from longreach.engine.request import FULL, Request, stop_tokens
from longreach.errors import ContextError
from longreach.models.decoder import window_of
from longreach.models.sharing import decode_stream
from longreach.serving.answering.writing import LENGTH, STOP, Outcome

if TYPE_CHECKING:
    from longreach.engine.prompt import Prompt
    from longreach.engine.request import Handle
    from longreach.engine.sampling import Sampling
    from longreach.serving.answering.question import Question
    from longreach.serving.pool import SharedModel


class PromptDraft:
    """What a model says to a prompt, while it is written.

    Args:
        shared: The model.
        prompt: What it reads.
        sampling: How it writes.
        began: When the answer was asked for, on `time.perf_counter`.
    """

    def __init__(
        self, shared: SharedModel, prompt: Prompt, sampling: Sampling, began: float
    ) -> None:
        self._tokenizer = shared.tokenizer
        self._positions = len(prompt.embeds)
        request = Request(
            prompt.embeds,
            sampling,
            stop_tokens(shared.model, shared.tokenizer),
            cuts=prompt.cuts,
            prefixes=shared.hot,
            began=began,
        )
        self._handle: Handle = engine_of(shared.model).submit(request)

    def __iter__(self) -> Iterator[str]:
        return decode_stream(self._tokenizer, self._handle, skip_special_tokens=True)

    def cancel(self) -> None:
        """Ends it with what there is of it."""
        self._handle.cancel()

    def sum_up(self, text: str, stopped: bool) -> Outcome:
        """Returns what it came to; see `Draft.sum_up`."""
        written = self._handle.result()
        return Outcome(
            text,
            LENGTH if written.ended == FULL and not stopped else STOP,
            self._positions,
            written.cached,
            len(written.tokens),
            written.first_token_seconds,
            written.seconds,
        )


def begin_conversation(shared: SharedModel, question: Question) -> PromptDraft:
    """Begins what a model says to a conversation, without a corpus.

    Raises:
        ContextError: It does not fit the model's window.
        ModelError: The model's template refuses it.
    """
    began = time.perf_counter()
    builder = shared.builder.following(question.history)
    prompt = builder.build([], [], question.text, "")
    sampling = _fit(question, len(prompt.embeds), window_of(shared.model))
    return PromptDraft(shared, prompt, sampling, began)


def _fit(question: Question, positions: int, window: int | None) -> Sampling:
    """Returns how the answer is written, so that it ends within the window."""
    sampling = question.sampling
    if window is None or positions + sampling.max_new_tokens <= window:
        return sampling
    left = window - positions
    if left >= 1 and not question.is_length_asked:
        return replace(sampling, max_new_tokens=left)
    raise ContextError(
        f"The conversation takes {positions:,} positions and the answer up to"
        f" {sampling.max_new_tokens:,}, and the model's window has {window:,}: shorten the"
        " conversation, or lower max_tokens."
    )
