"""The lengths of rows over a run, and which of its samples ask for far reading.

A pure function of settings and the number of samples. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from longreach.errors import UsageError


class Stage(NamedTuple):
    """A part of a run: rows of at most `length` tokens for a share of its samples."""

    length: int
    share: float


class Turn(NamedTuple):
    """What a sample is.

    Attributes:
        stage: The number of its stage.
        asked: Whether its rows ask for far reading.
        number: How many samples of its stage were of the same kind before it.
    """

    stage: int
    asked: bool
    number: int


def parse_stages(text: str) -> tuple[Stage, ...]:
    """Returns the stages that `--lengths` names, such as 1024:0.6,2048:0.3,4096:0.1.

    Raises:
        UsageError: The text is of another form, or the shares are not one in all.
    """
    stages = []
    try:
        for part in text.split(","):
            length, _, share = part.partition(":")
            stages.append(Stage(int(length), float(share or 1)))
    except ValueError as error:
        raise UsageError(
            f"--lengths is '{text}': give lengths with their shares, such as"
            " 1024:0.6,2048:0.3,4096:0.1."
        ) from error
    return tuple(stages)


def check_stages(stages: Sequence[Stage], most: int) -> None:
    """Raises UsageError where a length is out of range, or the shares are not one in all."""
    for stage in stages:
        if not 2 <= stage.length <= most:
            raise UsageError(
                f"lengths has rows of {stage.length} tokens: give 2 to the target length, {most}."
            )
        if not stage.share > 0:
            raise UsageError(f"lengths has a share of {stage.share}: give shares above 0.")
    total = sum(stage.share for stage in stages)
    if stages and abs(total - 1) > 1e-6:
        raise UsageError(f"The shares of lengths are {total:g} in all: give shares of 1 in all.")


def plan_turns(stages: Sequence[Stage], asks: float, count: int) -> list[Turn]:
    """Returns what each of `count` samples is.

    Stages come in order; within each, samples that ask are spread evenly.

    Args:
        stages: With shares of 1 in all.
        asks: The share of samples that ask.
        count: Samples of the whole run.
    """
    ends = np.round(np.cumsum([stage.share for stage in stages]) * count).astype(int)
    turns = []
    start = 0
    for number, stop in enumerate(ends):
        # Rounded down at each sample, so that no two of a kind more than needed come in a row.
        asked = np.floor(np.arange(stop - start + 1) * asks + 1e-9).astype(int)
        for place in range(stop - start):
            if asked[place + 1] > asked[place]:
                turns.append(Turn(number, True, int(asked[place])))
            else:
                turns.append(Turn(number, False, int(place - asked[place])))
        start = stop
    return turns
