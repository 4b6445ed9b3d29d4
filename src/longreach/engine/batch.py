"""The rows that an engine works on: they read their prompts in turn and step together.

Everything here happens under the model's lock.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import torch

from longreach.engine.adapters import adapted, can_mix
from longreach.engine.choice import choose_all
from longreach.engine.request import CANCELLED
from longreach.engine.rows import Row
from longreach.models.joined import JoinedSteps, can_join
from longreach.models.steps import Steps

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Batch:
    """The rows of one engine.

    Attributes:
        rows: Those that have not ended, in the order in which they read.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._joined: dict[tuple[Row, ...], JoinedSteps] = {}

    def drop_cancelled(self) -> None:
        """Ends the rows that nobody waits for."""
        for row in self.rows:
            if row.progress.cancelled:
                row.finish(CANCELLED)
        self._drop_ended()

    def fail(self, error: BaseException) -> None:
        """Ends all rows with an error that is none of theirs."""
        for row in self.rows:
            row.fail(error)
        self.rows = []
        self._joined = {}

    def _drop_ended(self) -> None:
        self.rows = [row for row in self.rows if not row.progress.ended]

    # -- reading prompts

    def read(self, most: int) -> None:
        """Reads one chunk, of `most` positions at most, of the prompt whose turn it is."""
        row = self._next_to_read()
        if row is None:
            return
        if row.request.chunk_tokens is not None:
            most = min(most, row.request.chunk_tokens)
        try:
            logits = row.read_chunk(most)
            if logits is not None:
                self._take([row], logits)
        except Exception as error:
            row.fail(error)
        except BaseException:
            # The forward was interrupted, and the cache may hold a part of the chunk.
            row.restart()
            raise
        # The others that read come first next time.
        self.rows.remove(row)
        if not row.progress.ended:
            self.rows.append(row)

    def _next_to_read(self) -> Row | None:
        """The first row that reads, but for those that wait for a prefix that another one reads."""
        owners: dict[Hashable, Row] = {}
        for row in self.rows:
            if row.reading is not None:
                owners[row.reading] = row
        for row in self.rows:
            if row.is_read:
                continue
            if row.reading is None:
                try:
                    row.take_prefix()
                except Exception as error:
                    row.fail(error)
                    continue
            if owners.get(row.next_prefix, row) is row:
                return row
        return None

    # -- writing tokens

    def write(self, model: PreTrainedModel) -> None:
        """Takes a step of each row that writes: together where that can be."""
        rows = [row for row in self.rows if row.is_read]
        # Groups that do not step again are not taken over, which frees their joined caches.
        known = self._joined
        self._joined = {}
        for group in self._groups(model, rows):
            try:
                if len(group) == 1:
                    logits = group[0].step()
                else:
                    logits = self._step_together(model, group, known.get(tuple(group)))
                self._take(group, logits)
            except Exception as error:
                self._recover(group, error)
            except BaseException:
                for row in group:
                    row.restart()
                raise
        self._drop_ended()

    def _step_together(
        self, model: PreTrainedModel, group: Sequence[Row], joined: JoinedSteps | None
    ) -> torch.Tensor:
        joined = joined or JoinedSteps(_steps_of(group))
        tokens: list[torch.Tensor] = []
        for row in group:
            assert row.token is not None
            tokens.append(row.token)
        with adapted(model, [row.request.adapter for row in group]):
            logits = joined.step(torch.cat(tokens))
        self._joined[tuple(group)] = joined
        return logits

    def _groups(self, model: PreTrainedModel, rows: Sequence[Row]) -> list[list[Row]]:
        """The rows that step together, those with one adapter side by side."""
        together = can_join(model)
        single: list[list[Row]] = []
        by_adapter: dict[str | None, list[Row]] = {}
        for row in rows:
            if together and not row.alone and isinstance(row.steps, Steps):
                by_adapter.setdefault(row.request.adapter, []).append(row)
            else:
                single.append([row])
        groups = list(by_adapter.values())
        if len(groups) > 1 and can_mix(model, list(by_adapter)):
            everyone: list[Row] = []
            # The rows of one adapter stay side by side.
            for group in groups:
                everyone += group
            groups = [everyone]
        return [*groups, *single]

    def _take(self, rows: Sequence[Row], logits: torch.Tensor) -> None:
        """Chooses the next token of each row out of logits [B, V]."""
        chosen = choose_all([row.chooser for row in rows], logits)
        ended = False
        for row, token, kept in zip(rows, chosen.tolist(), chosen.split(1), strict=True):
            # In this order, because every row has to take its token, whichever ended before it.
            ended = row.take(token, kept) or ended
        if ended:  # what stepped together would keep the memory of those that left
            self._joined.pop(tuple(rows), None)

    def _recover(self, rows: Sequence[Row], error: Exception) -> None:
        """After a step that failed: a row by itself ends, rows in company continue one by one."""
        if len(rows) == 1:
            rows[0].fail(error)
            return
        for row in rows:
            try:
                row.restart()
            except Exception as another:
                row.fail(another)


def _steps_of(rows: Sequence[Row]) -> list[Steps]:
    found: list[Steps] = []
    for row in rows:
        assert isinstance(row.steps, Steps)
        found.append(row.steps)
    return found
