"""The search for the full layers: what each layer costs, then the layer that helps most, again and
again.

Effects of layers are not additive, so each one is judged beside those that are chosen already.
Candidates are compared by a cheap measure: the end of the text alone, questions and answers, is
read with the candidate. What counts, and is reported, is the whole text read with the chosen
layers.

Papers: NLL-guided choice of full layers (arXiv 2606.27791); Pudil et al. 1994, Floating search
methods in feature selection.
"""

from __future__ import annotations

from typing import NamedTuple

from longreach.layers.measure import Measure
from longreach.layers.scores import Score

# Those of the highest cost, which the search begins with: one alone finds nothing.
_FIRST = 3
# Layers that are tried in each round after the first one.
_CANDIDATES = 16
# A smaller choice has to be better by this many nats before a layer is dropped for it.
_GAIN = 1e-3


class Choice(NamedTuple):
    """A number of full layers, the best found of that number, and how well they read."""

    full: tuple[int, ...]
    score: Score


class Found(NamedTuple):
    """What a search found.

    Attributes:
        costs: Of each layer: how much the NLL rises where it alone is sparse.
        choices: By the number of full layers.
        order: The layers in the order in which they were chosen, then the others by their costs.
    """

    costs: list[float]
    choices: dict[int, Choice]
    order: list[int]


def search(measure: Measure, most: int) -> Found:
    """Returns the best full layers for each number up to `most`.

    Args:
        measure: Of the model and its probes.
        most: Full layers at most.
    """
    every = list(range(measure.num_layers))
    choices: dict[int, Choice] = {}
    complete = measure.whole(every)
    costs = []
    for layer in every:
        others = [other for other in every if other != layer]
        costs.append(measure.end(others, every).nll - complete.nll)
    by_cost = sorted(every, key=lambda layer: -costs[layer])
    _note(measure, choices, [])
    chosen = by_cost[: min(_FIRST, most)]
    _note(measure, choices, chosen)
    candidates = [layer for layer in by_cost if layer not in chosen]
    while len(chosen) < most:
        nll = {}
        for layer in candidates:
            nll[layer] = measure.end([*chosen, layer], chosen).nll
        ranked = sorted(candidates, key=nll.__getitem__)
        chosen = [*chosen, ranked[0]]
        _note(measure, choices, chosen)
        smaller = _drop(measure, choices, chosen)
        # What was dropped may help again beside others.
        dropped = [layer for layer in chosen if layer not in smaller]
        chosen = smaller
        candidates = [*ranked[1 : 1 + _CANDIDATES], *dropped]
    choices[len(every)] = Choice(tuple(every), complete)
    rest = [layer for layer in by_cost if layer not in chosen]
    return Found(costs, dict(sorted(choices.items())), [*chosen, *rest])


def _note(measure: Measure, choices: dict[int, Choice], full: list[int]) -> bool:
    """Measures a choice, and returns whether it is the best of its number."""
    score = measure.whole(full)
    best = choices.get(len(full))
    if best is not None and best.score.nll <= score.nll + _GAIN:
        return False
    choices[len(full)] = Choice(tuple(sorted(full)), score)
    return True


def _drop(measure: Measure, choices: dict[int, Choice], chosen: list[int]) -> list[int]:
    """Returns the chosen layers without those that cost nothing.

    A layer costs nothing where the others read better than the best choice of their number did.
    """
    while len(chosen) - 1 in choices and len(chosen) > 1:
        best = choices[len(chosen) - 1].score.nll
        without = {}
        # The last one has just been found to help most.
        for layer in chosen[:-1]:
            others = [other for other in chosen if other != layer]
            without[layer] = measure.end(others, chosen).nll
        layer = min(without, key=without.__getitem__)
        others = [other for other in chosen if other != layer]
        if without[layer] >= best - _GAIN or not _note(measure, choices, others):
            break
        chosen = others
    return chosen
