"""One request at work: its prompt is read a chunk at a time, then it writes token after token.

Shapes: T positions of a prompt, d hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import torch

from longreach.caches.prefix import share
from longreach.engine.adapters import adapted
from longreach.engine.choice import Chooser
from longreach.engine.request import FULL, STOPPED, Progress, Request, prefix_key
from longreach.models.cached import CACHE, cache_in
from longreach.models.sharing import exclusive
from longreach.models.steps import Steps, empty_cache, require_read
from longreach.models.switching import SwitchingSteps, may_switch, steps_for

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel


@torch.no_grad()
def read_prefix(
    model: PreTrainedModel, embeds: torch.Tensor, cache: Cache | None = None, offset: int = 0
) -> Cache:
    """Reads embeddings [T, d] after `cache`, and returns the KV cache that holds both.

    That is `cache` itself, extended.

    Args:
        model: A causal language model.
        embeds: The embeddings.
        cache: What was read before.
        offset: See `Steps`.
    """
    past = cache.get_seq_length() if cache is not None else 0
    first = past + offset
    positions = torch.arange(first, first + len(embeds), device=embeds.device)[None]
    with exclusive(model):
        output = model(
            inputs_embeds=embeds[None],
            position_ids=positions,
            use_cache=True,
            # Nobody reads these logits, and those of all positions would be [T, V].
            logits_to_keep=1,
            **{CACHE: cache if cache is not None else empty_cache(model)},
        )
    cache = cache_in(output)
    require_read(model, cache, past + len(embeds))
    return cache


class Row:
    """A request between its first chunk and its last token.

    Args:
        model: The engine's model.
        request: What is asked.
        progress: Where its tokens go.
    """

    def __init__(self, model: PreTrainedModel, request: Request, progress: Progress) -> None:
        self.model, self.request, self.progress = model, request, progress
        self.alone = False  # whether it failed in company, and takes its steps by itself
        self.token: torch.Tensor | None = None  # [1], the newest one, not yet read
        self.reading: Hashable | None = None  # the prefix that it is in the middle of
        self.cached = 0  # positions of the prompt that had been read before
        self.steps: Steps | SwitchingSteps | None = None
        self.chooser = Chooser(request.sampling, request.embeds.device)
        self._embeds = request.embeds
        self._read = 0
        self._cache: Any = share(request.after) if request.after is not None else None
        self._past = 0 if self._cache is None else int(self._cache.get_seq_length())
        self._offset = 0 if request.position is None else request.position - self._past
        self._cuts: list[tuple[int, Hashable]] = self._find_cuts()

    def _find_cuts(self) -> list[tuple[int, Hashable]]:
        request = self.request
        length = self._past + self._offset + len(request.embeds)
        length += request.sampling.max_new_tokens
        # Where the rotation may change, keys may have to be rotated anew before the answer ends.
        if request.prefixes is None or may_switch(self.model, length):
            return []
        cuts: list[tuple[int, Hashable]] = []
        for cut in request.cuts:
            name = prefix_key(request.embeds[:cut], request.adapter, request.after_name)
            cuts.append((cut, name))
        return cuts

    @property
    def is_read(self) -> bool:
        """Whether the whole prompt is read, so that steps follow."""
        return self.token is not None

    @property
    def next_prefix(self) -> Hashable | None:
        """Names the prefix that the next chunk is part of; None where it is part of none."""
        if not self._cuts:
            return None
        return id(self.request.prefixes), self._cuts[0][1]

    def take_prefix(self) -> None:
        """Takes the longest prefix that was read before, where it is longer than what is read."""
        for at in reversed(range(len(self._cuts))):
            cut, key = self._cuts[at]
            assert self.request.prefixes is not None
            cache = self.request.prefixes.get(key)
            if cache is not None:
                self._cache = cache
                self.cached += cut - self._read
                self._read = cut
                del self._cuts[: at + 1]
                return

    @torch.no_grad()
    def read_chunk(self, most: int | None) -> torch.Tensor | None:
        """Reads up to `most` more positions; returns the logits [1, V] after the last of all."""
        if self._cuts:
            self._read_prefix_chunk(most)
            return None
        with adapted(self.model, [self.request.adapter]):
            if self.steps is None:
                self._begin_steps()
            assert self.steps is not None
            # Each chunk of a row whose rotation changes could mean reading all before it again.
            if isinstance(self.steps, SwitchingSteps):
                most = self.request.chunk_tokens
            end = self._end_of_chunk(len(self._embeds), most)
            logits = self.steps.read(inputs_embeds=self._embeds[None, self._read : end])
        self._read = end
        return logits if end == len(self._embeds) else None

    def _read_prefix_chunk(self, most: int | None) -> None:
        cut, key = self._cuts[0]
        end = self._end_of_chunk(cut, most)
        with adapted(self.model, [self.request.adapter]):
            chunk = self._embeds[self._read : end]
            self._cache = read_prefix(self.model, chunk, self._cache, self._offset)
        self._read = end
        self.reading = self.next_prefix
        if end == cut:
            assert self.request.prefixes is not None
            self.request.prefixes.put(key, self._cache)
            del self._cuts[0]
            self.reading = None

    def _end_of_chunk(self, end: int, most: int | None) -> int:
        return end if most is None else min(end, self._read + most)

    def _begin_steps(self) -> None:
        # After a restart `_embeds` holds what was written too, which counts among the new tokens.
        taken = self._past + len(self._embeds) - len(self.progress.tokens)
        # The last token of an answer is never read, so it needs no slot.
        slots = taken + self.request.sampling.max_new_tokens - 1
        self.steps = steps_for(self.model, slots, cache=self._cache, offset=self._offset)
        # The steps hold what they need of it, and another reference could keep memory twice.
        self._cache = None

    def step(self) -> torch.Tensor:
        """Reads the newest token by itself; returns the logits [1, V] after it."""
        assert self.steps is not None and self.token is not None
        with adapted(self.model, [self.request.adapter]):
            return self.steps.step(self.token)

    def take(self, token: int, chosen: torch.Tensor) -> bool:
        """Takes the token that was chosen, [1] on the device; returns whether the answer ended."""
        if token in self.request.stops:
            self.finish(STOPPED)
            return True
        self.token = chosen
        self.progress.add(token)
        if len(self.progress.tokens) == self.request.sampling.max_new_tokens:
            self.finish(FULL)
            return True
        return False

    def finish(self, why: str) -> None:
        """Closes the answer, and frees its keys and values."""
        held = 0 if self.steps is None else self.steps.kv_bytes
        self.release()
        self.progress.finish(held, self.cached, why)

    def fail(self, error: BaseException) -> None:
        """Ends the request with an error, and frees its keys and values."""
        self.release()
        self.progress.fail(error)

    def release(self) -> None:
        """Frees the keys and values."""
        self.steps = None
        self.reading = None
        self._cache = None

    @torch.no_grad()
    def restart(self) -> None:
        """Starts again with all that was written, after a step in company that failed midway."""
        self.release()
        self.alone = True
        self.token = None
        self._read = 0
        request = self.request
        if request.after is not None:
            self._cache = share(request.after)
        ids = torch.tensor(self.progress.tokens, device=request.embeds.device, dtype=torch.long)
        with adapted(self.model, [request.adapter]):
            written = self.model.get_input_embeddings()(ids)
        # What was written is read again as if it belonged to the prompt.
        self._embeds = torch.cat([request.embeds, written.to(request.embeds.dtype)])
