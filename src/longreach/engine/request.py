"""What the engine is asked, and what whoever asked gets at once: a handle on the answer.

Shapes: T positions of a prompt, d hidden size.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longreach.caches.prefix import PrefixCache
from longreach.engine.sampling import Sampling
from longreach.errors import UsageError

STOPPED = "stop"
FULL = "length"
CANCELLED = "cancelled"


@dataclass(frozen=True, eq=False)
class Request:
    """One prompt, and how it is to be answered.

    Attributes:
        embeds: Input embeddings [T, d], T >= 1.
        sampling: How tokens are chosen, and how many at most.
        stops: Token ids that end the answer; they are not part of it.
        adapter: Name of the adapter that is on for this prompt and its answer; None for none.
        cuts: Positions where the prompt can be cut for reuse: what lies before a cut is looked up
            in `prefixes`, or read once and kept there.
        prefixes: Where prefixes are kept; None reads the whole prompt.
        after: KV cache of what comes before the prompt; it is shared and not written to.
        after_name: Names what that cache holds, so that the prompt can be cut; None where nobody
            can tell.
        position: Position of the prompt's first embedding; None for right after `after`.
        chunk_tokens: Positions of the prompt read in one forward at most; None leaves it to the
            engine.
        began: When the answer was asked for, on `time.perf_counter`; None for now.
    """

    embeds: torch.Tensor
    sampling: Sampling
    stops: frozenset[int] = frozenset()
    adapter: str | None = None
    cuts: tuple[int, ...] = ()
    prefixes: PrefixCache | None = None
    after: Any = None
    after_name: Hashable | None = None
    position: int | None = None
    chunk_tokens: int | None = None
    began: float | None = None

    def __post_init__(self) -> None:
        if self.embeds.dim() != 2 or not len(self.embeds):
            raise UsageError(
                f"A prompt has the shape {tuple(self.embeds.shape)}; give embeddings [T, d] of at"
                " least one position."
            )
        if list(self.cuts) != sorted(set(self.cuts)) or not self._cuts_lie_inside():
            raise UsageError(
                f"The cuts {list(self.cuts)} of a prompt of {len(self.embeds)} positions must"
                " ascend and lie inside it."
            )
        # A prefix is named by the prompt's own content, which does not tell what the cache holds.
        if self.cuts and self.after is not None and self.after_name is None:
            raise UsageError(
                "A prompt after a KV cache without a name cannot be cut; give cuts or a cache."
            )
        if self.chunk_tokens is not None and self.chunk_tokens < 1:
            raise UsageError(f"chunk_tokens is {self.chunk_tokens}; give at least 1, or None.")

    def _cuts_lie_inside(self) -> bool:
        return not self.cuts or (self.cuts[0] > 0 and self.cuts[-1] < len(self.embeds))


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Returns the token ids after which the model has finished speaking."""
    config: Any = model.generation_config
    eos = config.eos_token_id
    # Chat models often have several: one ends a text, another one a turn.
    known = eos if isinstance(eos, list) else [eos]
    ids = [*known, tokenizer.eos_token_id]
    return frozenset(token for token in ids if token is not None)


def prefix_key(
    embeds: torch.Tensor, adapter: str | None, after: Hashable | None = None
) -> Hashable:
    """Names a prefix by its content, the adapter that reads it and the name of what lies before.

    So a document that changed can never meet an old cache.
    """
    # NumPy has no bfloat16, so the bytes are hashed as they are.
    content = embeds.contiguous().cpu().view(torch.uint8).numpy().data
    return adapter, hashlib.sha256(content).digest(), after


@dataclass(frozen=True)
class Written:
    """One prompt's answer, and what it took.

    Attributes:
        tokens: Token ids, without the one that ended them.
        first_token_seconds, seconds: From when the answer was asked for to its first token and to
            its last one.
        kv_bytes: Bytes of the keys and values that were held for it in the end.
        cached: Positions of the prompt that had been read before.
        ended: Why it ended: "stop" token, "length" or "cancelled".
    """

    tokens: list[int]
    first_token_seconds: float
    seconds: float
    kv_bytes: int
    cached: int = 0
    ended: str = STOPPED


class Progress:
    """How far one answer has come: written by the engine, read by handles in any threads."""

    def __init__(self, began: float | None) -> None:
        self.began = time.perf_counter() if began is None else began
        self.changed = threading.Condition()
        self.tokens: list[int] = []
        self.first_token_seconds: float | None = None
        self.seconds: float | None = None
        self.written: Written | None = None
        self.error: BaseException | None = None
        # Set from finalizers too, which may run anywhere: it takes no lock.
        self.cancelled = False

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self.written is not None or self.error is not None

    def add(self, token: int) -> None:
        """Hands out one more token."""
        now = time.perf_counter() - self.began
        with self.changed:
            if self.first_token_seconds is None:
                self.first_token_seconds = now
            self.seconds = now
            self.tokens.append(token)
            self.changed.notify_all()

    def finish(self, kv_bytes: int, cached: int, ended: str) -> None:
        """Closes the answer."""
        now = time.perf_counter() - self.began
        with self.changed:
            # An answer may end without any token, as when the first one chosen is a stop token.
            first = now if self.first_token_seconds is None else self.first_token_seconds
            last = now if self.seconds is None else self.seconds
            self.written = Written(list(self.tokens), first, last, kv_bytes, cached, ended)
            self.changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Ends the answer with an error."""
        with self.changed:
            self.error = error
            self.changed.notify_all()


class Handle:
    """An answer on its way. Whoever lets go of it before its end gives it up.

    Iterating gives the tokens as they come; each iteration begins with the first one.

    Args:
        progress: What the engine writes.
        wait: Waits until the progress has changed beyond a number of tokens.
    """

    def __init__(self, progress: Progress, wait: Callable[[Progress, int], None]) -> None:
        self._progress = progress
        self._wait = wait

    def __iter__(self) -> Iterator[int]:
        given = 0
        while True:
            self._wait(self._progress, given)
            if given < len(self._progress.tokens):
                yield self._progress.tokens[given]
                given += 1
            elif self._progress.error is not None:
                # An error comes only after all tokens that were written before it.
                raise self._progress.error
            else:
                return

    def result(self) -> Written:
        """Waits for the end and returns the whole answer: of a cancelled one what there is.

        Raises:
            Exception: Whatever ended the request.
        """
        while not self._progress.ended:
            self._wait(self._progress, len(self._progress.tokens))
        if self._progress.error is not None:
            raise self._progress.error
        assert self._progress.written is not None
        return self._progress.written

    @property
    def tokens(self) -> list[int]:
        """The tokens that there are so far."""
        return list(self._progress.tokens)

    def cancel(self) -> None:
        """Ends the answer with what there is of it; its memory is freed before the next step."""
        self._progress.cancelled = True

    def __del__(self) -> None:
        # Nobody can read the rest any more, so writing it would waste the steps of others.
        self._progress.cancelled = True
