"""Axes of charts: which figures are marked, and where figures lie between the ends."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_MOST_TICKS = 7
_MARGIN = 0.06


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        name: What lies along it, with its unit.
        text: How a figure of it is said.
        log: Equal steps are equal ratios; all figures are above 0.
        ticks: Where it is marked; () leaves that to the chart.
        zero: It begins at 0.
    """

    name: str
    text: Callable[[float], str]
    log: bool = False
    ticks: Sequence[float] = ()
    zero: bool = True


class Scale:
    """Where figures lie along an axis: 0 at its beginning, 1 at its end.

    Args:
        axis: The axis.
        values: All figures that are drawn.
    """

    def __init__(self, axis: Axis, values: Sequence[float]) -> None:
        self.text = axis.text
        self._log = axis.log
        low = min(values)
        high = max(values)
        self.ticks = choose_ticks(axis, low, high)
        ends = list(map(self._at, (low, high, self.ticks[0], self.ticks[-1])))
        self._low = min(ends)
        self._high = max(ends)
        # Of lengths and the like no mark lies on the frame.
        if axis.ticks:
            margin = _MARGIN * (self._high - self._low)
            self._low -= margin
            self._high += margin

    def share(self, value: float) -> float:
        """Returns where a figure lies, 0 to 1."""
        span = self._high - self._low
        # All figures are the same: they lie in the middle.
        if not span:
            return 0.5
        return (self._at(value) - self._low) / span

    def _at(self, value: float) -> float:
        return math.log(value) if self._log else value


def choose_ticks(axis: Axis, low: float, high: float) -> list[float]:
    """Returns the figures that are marked on an axis from `low` to `high`."""
    if axis.ticks:
        return list(axis.ticks)
    if axis.log:
        return _choose_ratios(low, high)
    return _choose_steps(0 if axis.zero else low, high)


def _choose_steps(low: float, high: float) -> list[float]:
    """Returns about five round figures around a range."""
    # A single figure needs some range around it.
    if high <= low:
        high = low + (abs(low) or 1)
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = 10 * power
    for size in (1, 2, 2.5, 5):
        # A little less will do: sums of fractions are not exact.
        if power * size >= rough * 0.999:
            step = power * size
            break
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [step * count for count in range(first, last + 1)]


def _choose_ratios(low: float, high: float) -> list[float]:
    """Returns round figures around a range of ratios, seven at most."""
    first = math.floor(math.log10(low))
    last = math.ceil(math.log10(high))
    found: list[float] = []
    for sizes in ((1, 2, 5), (1, 3), (1,)):
        every = []
        for power in range(first, last + 1):
            every += [size * 10.0**power for size in sizes]
        begin = max((tick for tick in every if tick <= low), default=every[0])
        end = min((tick for tick in every if tick >= high), default=every[-1])
        found = [tick for tick in every if begin <= tick <= end]
        if len(found) <= _MOST_TICKS:
            break
    return found
