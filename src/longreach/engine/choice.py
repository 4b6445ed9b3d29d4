"""Logits to tokens.

Every row draws from a generator of its own, so that its company does not matter.

Shapes: B rows, V vocabulary.
"""

from collections.abc import Sequence

import torch
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from longreach.engine.sampling import Sampling


class Chooser:
    """Chooses the tokens of one row.

    Args:
        sampling: How to choose.
        device: Where the logits are.
    """

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        self.greedy = sampling.temperature == 0
        self._warpers = LogitsProcessorList()
        if self.greedy:
            return
        self._generator = torch.Generator(device)
        if sampling.seed is None:
            # A new generator always starts from the same number; this draws one.
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)
        self._warpers.append(TemperatureLogitsWarper(float(sampling.temperature)))
        if sampling.top_k:
            self._warpers.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self._warpers.append(TopPLogitsWarper(sampling.top_p))

    def choose(self, logits: torch.Tensor) -> torch.Tensor:
        """Returns the token [1] for the logits [1, V] of the row."""
        if self.greedy:
            return logits.argmax(-1)
        # None of the three reads the ids before.
        warped = self._warpers(None, logits.float())  # type: ignore[arg-type]
        return torch.multinomial(warped.softmax(-1)[0], 1, generator=self._generator)

    def get_state(self) -> torch.Tensor | None:
        """Returns the state of the row's generator; None where it draws nothing."""
        return None if self.greedy else self._generator.get_state()

    def set_back(self, state: torch.Tensor | None) -> None:
        """Sets the row's generator back to a state from before."""
        if state is not None:
            self._generator.set_state(state)


def choose_all(choosers: Sequence[Chooser], logits: torch.Tensor) -> torch.Tensor:
    """Returns the tokens [B] for logits [B, V], each as the row's own chooser picks it."""
    if all(chooser.greedy for chooser in choosers):
        return logits.argmax(-1)
    before = [chooser.get_state() for chooser in choosers]
    chosen: list[torch.Tensor] = []
    try:
        for chooser, row in zip(choosers, logits.split(1), strict=True):
            chosen.append(chooser.choose(row))
    except BaseException:
        # All of them choose again, and must draw what they have drawn here.
        for chooser, state in zip(choosers, before, strict=True):
            chooser.set_back(state)
        raise
    return torch.cat(chosen)
