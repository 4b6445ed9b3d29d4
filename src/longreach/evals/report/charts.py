"""Line charts and heat maps as HTML that needs nothing else: inline SVG, and tables whose cells are
coloured.

A series has a colour and a marker of its own, so that no chart is read by colour alone; the
colours, and those of the heat maps (cividis: Nunez et al. 2018, arXiv 1712.01662), can be told
apart by the colour-blind. Every chart says its figures in words to those who do not see it.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

COLORS, _WIDTH, _HEIGHT = 8, 400, 260
_TOP, _BOTTOM, _RIGHT, _LETTER = 12, 44, 24, 6.6
_MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z",
    "M-3.7 -3.7h7.4v7.4h-7.4Z",
    "M0 -4.8L4.6 3.6H-4.6Z",
    "M0 -5.2L5.2 0L0 5.2L-5.2 0Z",
    "M0 4.8L4.6 -3.6H-4.6Z",
)
_CIVIDIS = (
    "00224e",
    "123570",
    "3b496c",
    "575d6d",
    "707173",
    "8a8678",
    "a59c74",
    "c3b369",
    "e1cc55",
    "fee838",
)


class Point(NamedTuple):
    """A figure at x, and the interval it lies in where that is known."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


class Series(NamedTuple):
    """The points of one reader; `style` is its number among all readers of the page."""

    name: str
    style: int
    points: Sequence[Point]


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        name: what lies along it, with its unit.
        text: how a figure of it is said.
        log: equal steps are equal ratios; all figures are above 0.
        ticks: where it is marked; () leaves that to the chart.
        zero: it begins at 0.
    """

    name: str
    text: Callable[[float], str]
    log: bool = False
    ticks: Sequence[float] = ()
    zero: bool = True


def line_chart(
    title: str, series: Sequence[Series], x: Axis, y: Axis, *, joined: bool = True
) -> str:
    """A figure with its caption; points of a series are joined by lines where `joined`."""
    points = [point for one in series for point in one.points]
    heights = [
        height
        for point in points
        for height in (point.y, point.low, point.high)
        if height is not None
    ]
    across = _Scale(x, [point.x for point in points])
    up = _Scale(y, heights)
    left = 14 + _LETTER * max(len(y.text(tick)) for tick in up.ticks)

    def place(point_x: float, point_y: float) -> tuple[float, float]:
        inner = _WIDTH - left - _RIGHT
        return left + inner * across.share(point_x), _HEIGHT - _BOTTOM - (
            _HEIGHT - _TOP - _BOTTOM
        ) * up.share(point_y)

    parts = [*_grid(across, up, place, left)]
    for one in series:
        parts += _drawn(one, place, joined)
    words = escape(_words(series, x, y))
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {_WIDTH}'
        f' {_HEIGHT}" role="img" aria-label="{escape(title)}. {words}">{"".join(parts)}<text'
        f' class="axis" x="{(left + _WIDTH - _RIGHT) / 2:.1f}"'
        f' y="{_HEIGHT - 6}">{escape(x.name)}</text></svg></figure>'
    )


def legend(names: Sequence[tuple[str, int]]) -> str:
    """Which marker is whose."""
    items = (
        f'<li><svg viewBox="-8 -8 16 16" aria-hidden="true">{_mark(i)}</svg>{escape(n)}</li>'
        for n, i in names
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def heat_map(
    caption: str, corner: str, rows: Mapping[str, Mapping[str, float]], columns: Sequence[str]
) -> str:
    """A table of scores from 0 to 100, each on its colour; what was not measured is left empty."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = ""
    for name, cells in rows.items():
        shades = "".join(_shade(cells.get(column)) for column in columns)
        body += f'<tr><th scope="row">{escape(name)}</th>{shades}</tr>'
    return (
        f'<table class="heat"><caption>{escape(caption)}</caption><thead><tr><th'
        f' scope="col">{escape(corner)}</th>{head}</tr></thead><tbody>{body}</tbody></table>'
    )


class _Scale:
    """Where figures lie along an axis: 0 at its beginning, 1 at its end."""

    def __init__(self, axis: Axis, values: Sequence[float]) -> None:
        self._log = axis.log
        low, high = min(values), max(values)
        if axis.ticks:
            self.ticks = list(axis.ticks)
        elif axis.log:
            self.ticks = _ratios(low, high)
        else:
            self.ticks = _steps(0 if axis.zero else low, high)
        ends = [*map(self._at, (low, high)), *(map(self._at, (self.ticks[0], self.ticks[-1])))]
        self._low, self._high = min(ends), max(ends)
        if axis.ticks:  # such as lengths: nothing lies on the frame
            margin = 0.06 * (self._high - self._low)
            self._low, self._high = self._low - margin, self._high + margin
        self.text = axis.text

    def share(self, value: float) -> float:
        span = self._high - self._low
        return (self._at(value) - self._low) / span if span else 0.5

    def _at(self, value: float) -> float:
        return math.log(value) if self._log else value


def _steps(low: float, high: float) -> list[float]:
    """About five round figures around a range."""
    high = high if high > low else low + (abs(low) or 1)
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * size for size in (1, 2, 2.5, 5, 10) if power * size >= rough * 0.999)
    return [
        step * count
        for count in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)
    ]


def _ratios(low: float, high: float) -> list[float]:
    """Round figures around a range of ratios, at most seven."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for sizes in ((1, 2, 5), (1, 3), (1,)):
        every = [size * 10.0**power for power in range(first, last + 1) for size in sizes]
        begin = max((tick for tick in every if tick <= low), default=every[0])
        end = min((tick for tick in every if tick >= high), default=every[-1])
        found = [tick for tick in every if begin <= tick <= end]
        if len(found) <= 7:
            break
    return found


def _grid(
    across: _Scale, up: _Scale, place: Callable[[float, float], tuple[float, float]], left: float
) -> Iterator[str]:
    floor, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for tick in up.ticks:
        height = place(across.ticks[0], tick)[1]
        yield f'<path class="grid" d="M{left:.1f} {height:.1f}H{right}"/>'
        yield (
            f'<text class="up" x="{left - 6:.1f}"'
            f' y="{height + 4:.1f}">{escape(up.text(tick))}</text>'
        )
    yield f'<path class="frame" d="M{left:.1f} {floor}H{right}"/>'
    free = -math.inf
    for tick in across.ticks:
        middle, text = place(tick, up.ticks[0])[0], across.text(tick)
        half = _LETTER * len(text) / 2
        yield f'<path class="frame" d="M{middle:.1f} {floor}v4"/>'
        if middle - half > free:  # labels never overlap
            yield f'<text class="across" x="{middle:.1f}" y="{floor + 17}">{escape(text)}</text>'
            free = middle + half + 3


def _drawn(
    series: Series, place: Callable[[float, float], tuple[float, float]], joined: bool
) -> Iterator[str]:
    points = [place(point.x, point.y) for point in series.points]
    yield f'<g class="s{series.style % COLORS}">'
    if joined and len(points) > 1:
        yield f'<path class="line" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>'
    for (x, y), point in zip(points, series.points, strict=True):
        if point.low is not None and point.high is not None:
            low, high = place(point.x, point.low)[1], place(point.x, point.high)[1]
            ends = f"M{x - 3:.1f} {low:.1f}h6M{x - 3:.1f} {high:.1f}h6"
            yield f'<path class="line" d="M{x:.1f} {low:.1f}V{high:.1f}{ends}"/>'
        yield f'<g transform="translate({x:.1f} {y:.1f})">{_mark(series.style, wrapped=False)}</g>'
    yield "</g>"


def _mark(style: int, *, wrapped: bool = True) -> str:
    mark = f'<path class="mark" d="{_MARKERS[style % len(_MARKERS)]}"/>'
    return f'<g class="s{style % COLORS}">{mark}</g>' if wrapped else mark


def _words(series: Sequence[Series], x: Axis, y: Axis) -> str:
    said = []
    for one in series:
        points = (f"{y.text(point.y)} at {x.text(point.x)}" for point in one.points)
        said.append(f"{one.name}: {', '.join(points)}")
    return f"{y.name} by {x.name}. {'; '.join(said)}."


def _shade(score: float | None) -> str:
    if score is None:
        return "<td></td>"
    red, green, blue = _colour(score / 100)
    # As in WCAG 2.
    bright = 0.2126 * _linear(red) + 0.7152 * _linear(green) + 0.0722 * _linear(blue)
    ink = "#000" if bright > 0.179 else "#fff"
    value = f'<data value="{score!r}">{score:.0f}</data>'
    return f'<td style="background:#{red:02x}{green:02x}{blue:02x};color:{ink}">{value}</td>'


def _colour(share: float) -> tuple[int, int, int]:
    """The colour map at 0 to 1."""
    at = min(max(share, 0), 1) * (len(_CIVIDIS) - 1)
    one = min(int(at), len(_CIVIDIS) - 2)
    low, high = (bytes.fromhex(colour) for colour in _CIVIDIS[one : one + 2])
    red, green, blue = (round(a + (b - a) * (at - one)) for a, b in zip(low, high, strict=True))
    return red, green, blue


def _linear(level: int) -> float:
    share = level / 255
    return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4
