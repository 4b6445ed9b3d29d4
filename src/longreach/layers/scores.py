"""How well answers are predicted: their NLL, and whether greedy writing would find them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from longreach.jsontext import JsonObject, read_field
from longreach.layers.probes import Probe
from longreach.models.hybrid.states import LayerRunner


class Score(NamedTuple):
    """How well a choice of layers reads the probes.

    Attributes:
        nll: Mean over kinds of the mean NLL of a token of an answer, in nats.
        found: Mean over kinds of the share of answers whose every token is the likeliest.
        by_kind: Both for each kind.
    """

    nll: float
    found: float
    by_kind: dict[str, tuple[float, float]]

    def to_json(self) -> JsonObject:
        """Returns the score as it is kept in files."""
        kinds: JsonObject = {}
        for kind, (nll, found) in self.by_kind.items():
            kinds[kind] = {"nll": nll, "found": found}
        return {"nll": self.nll, "found": self.found, "by_kind": kinds}

    @classmethod
    def from_json(cls, value: JsonObject) -> Score:
        """Returns the score that `to_json` wrote."""
        kinds = {}
        for kind, one in read_field(value, "by_kind", dict).items():
            kinds[kind] = (read_field(one, "nll", float), read_field(one, "found", float))
        return cls(read_field(value, "nll", float), read_field(value, "found", float), kinds)


class _Answer(NamedTuple):
    kind: str
    nll: float
    found: bool


def score_states(runner: LayerRunner, probes: Sequence[Probe], states: Tensor, start: int) -> Score:
    """Returns the score of what came out of the last layer.

    Logits are made at the answers only.

    Args:
        runner: Of the same probes, in the same order.
        probes: B of them.
        states: From position `start` on, [B, T - start, d].
        start: The position of the first of these states.
    """
    answers = list(_walk_answers(runner, probes, states, start))
    by_kind = {}
    for kind in dict.fromkeys(probe.kind for probe in probes):
        own = [answer for answer in answers if answer.kind == kind]
        nll = sum(answer.nll for answer in own) / len(own)
        found = sum(answer.found for answer in own) / len(own)
        by_kind[kind] = (nll, found)
    count = len(by_kind)
    return Score(
        nll=sum(nll for nll, _ in by_kind.values()) / count,
        found=sum(found for _, found in by_kind.values()) / count,
        by_kind=by_kind,
    )


def _walk_answers(
    runner: LayerRunner, probes: Sequence[Probe], states: Tensor, start: int
) -> Iterator[_Answer]:
    for row, probe in enumerate(probes):
        positions = list(chain.from_iterable(probe.answers))
        at = torch.tensor(positions, device=states.device)
        # A token is predicted by the position before it.
        logits = runner.logits(states[row, at - 1 - start])
        wanted = runner.ids[row, at]
        losses = torch.nn.functional.cross_entropy(logits, wanted, reduction="none").tolist()
        right = (logits.argmax(-1) == wanted).tolist()
        done = 0
        for answer in probe.answers:
            until = done + len(answer)
            nll = sum(losses[done:until]) / len(answer)
            yield _Answer(probe.kind, nll, all(right[done:until]))
            done = until
