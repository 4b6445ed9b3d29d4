"""Line charts as HTML that needs nothing else: inline SVG.

A series has a color and a marker of its own, so that no chart is read by color alone. Every chart
says its figures in words to those who do not see it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

from longreach.evals.report.axis import Axis, Scale

COLORS = 8
_WIDTH = 400
_HEIGHT = 260
_TOP = 12
_BOTTOM = 44
_RIGHT = 24
# About the width of a letter.
_LETTER = 6.6
# SVG paths around the origin, so that a marker can be moved to its point.
_MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z",
    "M-3.7 -3.7h7.4v7.4h-7.4Z",
    "M0 -4.8L4.6 3.6H-4.6Z",
    "M0 -5.2L5.2 0L0 5.2L-5.2 0Z",
    "M0 4.8L4.6 -3.6H-4.6Z",
)


class Point(NamedTuple):
    """A figure at x, and the interval it lies in where that is known."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


class Series(NamedTuple):
    """The points of one system; `style` is its number among all systems of the page."""

    name: str
    style: int
    points: Sequence[Point]


class ChartPlace(NamedTuple):
    """Where something lies in a chart, from its upper left corner."""

    x: float
    y: float


def line_chart(
    title: str, series: Sequence[Series], x: Axis, y: Axis, *, joined: bool = True
) -> str:
    """Returns a chart with its caption.

    Args:
        title: The caption.
        series: At least one, of at least one point.
        x: The axis along it.
        y: The axis up it.
        joined: Whether lines join the points of a series.
    """
    frame = _Frame(series, x, y)
    parts = [*frame.draw_grid()]
    for one in series:
        parts += frame.draw_series(one, joined)
    # For those who do not see the chart.
    words = escape(_say(series, x, y))
    middle = (frame.left + _WIDTH - _RIGHT) / 2
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {_WIDTH}'
        f' {_HEIGHT}" role="img" aria-label="{escape(title)}. {words}">{"".join(parts)}<text'
        f' class="axis" x="{middle:.1f}"'
        f' y="{_HEIGHT - 6}">{escape(x.name)}</text></svg></figure>'
    )


def legend(names: Sequence[str], styles: Mapping[str, int]) -> str:
    """Returns which marker is whose."""
    items = []
    for name in names:
        style = styles[name]
        mark = f'<g class="s{style % COLORS}">{_mark(style)}</g>'
        items.append(
            f'<li><svg viewBox="-8 -8 16 16" aria-hidden="true">{mark}</svg>{escape(name)}</li>'
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


class _Frame:
    """The frame of a chart, in which its points have their places."""

    def __init__(self, series: Sequence[Series], x: Axis, y: Axis) -> None:
        along = []
        heights = []
        for one in series:
            for point in one.points:
                along.append(point.x)
                heights += [end for end in (point.y, point.low, point.high) if end is not None]
        self._across = Scale(x, along)
        self._up = Scale(y, heights)
        # The text beside the axis needs its part of the width.
        longest = max(len(y.text(tick)) for tick in self._up.ticks)
        self.left = 14 + _LETTER * longest

    def place(self, x: float, y: float) -> ChartPlace:
        """Returns where a point lies."""
        width = _WIDTH - self.left - _RIGHT
        height = _HEIGHT - _TOP - _BOTTOM
        return ChartPlace(
            self.left + width * self._across.share(x),
            _HEIGHT - _BOTTOM - height * self._up.share(y),
        )

    def draw_grid(self) -> Iterator[str]:
        """Yields the lines of the frame, and what they mean."""
        base = _HEIGHT - _BOTTOM
        right = _WIDTH - _RIGHT
        for tick in self._up.ticks:
            height = self.place(self._across.ticks[0], tick).y
            yield f'<path class="grid" d="M{self.left:.1f} {height:.1f}H{right}"/>'
            text = escape(self._up.text(tick))
            yield f'<text class="up" x="{self.left - 6:.1f}" y="{height + 4:.1f}">{text}</text>'
        yield f'<path class="frame" d="M{self.left:.1f} {base}H{right}"/>'
        free = -math.inf
        for tick in self._across.ticks:
            middle = self.place(tick, self._up.ticks[0]).x
            text = self._across.text(tick)
            half = _LETTER * len(text) / 2
            yield f'<path class="frame" d="M{middle:.1f} {base}v4"/>'
            # Labels never overlap.
            if middle - half > free:
                yield f'<text class="across" x="{middle:.1f}" y="{base + 17}">{escape(text)}</text>'
                free = middle + half + 3

    def draw_series(self, series: Series, joined: bool) -> Iterator[str]:
        """Yields the line, the intervals and the markers of a series."""
        yield f'<g class="s{series.style % COLORS}">'
        # A single point is no line.
        if joined and len(series.points) > 1:
            places = [self.place(point.x, point.y) for point in series.points]
            line = "L".join(f"{place.x:.1f} {place.y:.1f}" for place in places)
            yield f'<path class="line" d="M{line}"/>'
        for point in series.points:
            at = self.place(point.x, point.y)
            if point.low is not None and point.high is not None:
                low = self.place(point.x, point.low).y
                high = self.place(point.x, point.high).y
                ends = f"M{at.x - 3:.1f} {low:.1f}h6M{at.x - 3:.1f} {high:.1f}h6"
                yield f'<path class="line" d="M{at.x:.1f} {low:.1f}V{high:.1f}{ends}"/>'
            yield f'<g transform="translate({at.x:.1f} {at.y:.1f})">{_mark(series.style)}</g>'
        yield "</g>"


def _mark(style: int) -> str:
    return f'<path class="mark" d="{_MARKERS[style % len(_MARKERS)]}"/>'


def _say(series: Sequence[Series], x: Axis, y: Axis) -> str:
    """Returns the figures of a chart in words."""
    said = []
    for one in series:
        points = [f"{y.text(point.y)} at {x.text(point.x)}" for point in one.points]
        said.append(f"{one.name}: {', '.join(points)}")
    return f"{y.name} by {x.name}. {'; '.join(said)}."
