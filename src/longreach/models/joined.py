"""Steps of several rows in one forward, each out of its own cache.

All linear layers see the rows as one batch, so that the weights are read once. Attention goes row
by row over that row's own keys and values: no padding, no mask, and a row's tokens do not depend on
its company beyond rounding. Rows may join and leave between any two steps.

Shapes: B rows, H query heads, K KV heads, S_b slots of row b, D head dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from longreach.caches.joined import JoinedCache
from longreach.models.attend import find_rows_name, switch_attention
from longreach.models.cached import CACHE
from longreach.models.hybrid.names import FAMILY_NAMES, PREFIX
from longreach.models.sharing import exclusive
from longreach.models.steps import Steps, require_read
from longreach.models.switching import switch_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


# Their attention hands what the cache gives straight to the attention implementation.
_FAMILIES = frozenset({*FAMILY_NAMES, "gemma", "gemma2", "gemma3_text"})
# Recording takes as long as many steps: it pays once the same rows have stayed together for some.
_RECORD_AFTER = 8


def can_join(model: PreTrainedModel) -> bool:
    """Whether rows of a model can step together; rows of all others step one by one."""
    kind = model.config.model_type.removeprefix(PREFIX)
    known = kind in _FAMILIES and find_rows_name(model.config) is not None
    return known and switch_of(model) is None


class JoinedSteps:
    """Several rows that take their steps together, for as long as they are the same ones.

    Args:
        rows: Steps of one row each, of one model that `can_join`, all of them read.
    """

    def __init__(self, rows: Sequence[Steps]) -> None:
        self.rows = list(rows)
        self.model = rows[0].model
        self._cache = JoinedCache([row.cache for row in rows])
        self._fixed = rows[0].fixed
        self._taken = 0
        self._tokens: Tensor | None = None
        self._offsets: Tensor | int = 0
        self._logits: Tensor | None = None
        self._replay: Callable[[], None] | None = None

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        """Reads one more token in each row, [B], and gives the logits [B, V] after it."""
        for b, row in enumerate(self.rows):
            row.begin_step(tokens[b : b + 1])
        with exclusive(self.model):
            logits = self._run_fixed(tokens) if self._fixed else self._run(tokens, None)
        for row in self.rows:
            row.filled += 1
            if not self._fixed:  # else the layers count on the device, and a GPU would have to wait
                require_read(self.model, row.cache, row.filled)
        self._taken += 1
        return logits

    def _run_fixed(self, tokens: Tensor) -> Tensor:
        """The step in which nothing depends on a number that the host would have to know."""
        if self._tokens is None:
            self._tokens = tokens.clone()
            self._offsets = tokens.new_tensor([row.position - row.filled for row in self.rows])
        # A recorded graph reads its tokens at this address.
        self._tokens.copy_(tokens)
        if self._replay is None and self._taken >= _RECORD_AFTER and self.rows[0].recorded:
            recorded = self.rows[0].record(self._run_once)
            if recorded is not None:
                self._replay, self._logits = recorded
        if self._replay is None or self._logits is None:
            return self._run_once()
        self._replay()
        # The next replay overwrites what this one has written.
        return self._logits.clone()

    def _run_once(self) -> Tensor:
        assert self._tokens is not None
        lengths: list[Tensor] = []
        for row in self.rows:
            assert row.lengths is not None
            row.lengths.add_(1)
            lengths.append(row.lengths)
        return self._run(self._tokens, lengths)

    def _run(self, tokens: Tensor, lengths: list[Tensor] | None) -> Tensor:
        if lengths is None:
            positions = torch.tensor([row.position for row in self.rows], device=tokens.device)
            more: dict[str, Any] = {}
        else:
            # Computed on the device, so that a graph can hold it.
            positions = torch.cat(lengths) - 1 + self._offsets
            more = {"lengths": lengths}
        name = find_rows_name(self.model.config)
        assert name is not None
        with switch_attention(self.model.config, name):
            output = self.model(
                input_ids=tokens[:, None],
                position_ids=positions[:, None],
                use_cache=True,
                logits_to_keep=1,
                **{CACHE: self._cache},
                **more,
                **self.rows[0].options,
            )
        logits: Tensor = output.logits[:, -1]
        return logits
