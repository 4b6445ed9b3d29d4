"""Heat maps as tables whose cells are colored.

The colors (cividis: Nunez et al. 2018, arXiv 1712.01662) can be told apart by the color-blind, and
each cell says its score.
"""

from collections.abc import Mapping, Sequence
from html import escape

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
# What each color of light adds to brightness, and what brightness black can be read on: WCAG 2.
_BRIGHTNESS = (0.2126, 0.7152, 0.0722)
_BRIGHT = 0.179


def heat_map(
    caption: str, corner: str, rows: Mapping[str, Mapping[str, float]], columns: Sequence[str]
) -> str:
    """Returns a table of scores from 0 to 100, each on its color; what was not measured is empty.

    Args:
        caption: Of the table.
        corner: The head of its first column.
        rows: Scores by row and column.
        columns: The names of the columns, in order.
    """
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = []
    for name, cells in rows.items():
        line = [f'<th scope="row">{escape(name)}</th>']
        line += [_shade(cells.get(column)) for column in columns]
        body.append(f"<tr>{''.join(line)}</tr>")
    return (
        f'<table class="heat"><caption>{escape(caption)}</caption><thead><tr><th'
        f' scope="col">{escape(corner)}</th>{head}</tr></thead><tbody>{"".join(body)}</tbody>'
        "</table>"
    )


def _shade(score: float | None) -> str:
    if score is None:
        return "<td></td>"
    levels = _color(score / 100)
    bright = 0.0
    for weight, level in zip(_BRIGHTNESS, levels, strict=True):
        bright += weight * _linear(level)
    ink = "#000" if bright > _BRIGHT else "#fff"
    # All digits for programs, a whole number for readers.
    value = f'<data value="{score!r}">{score:.0f}</data>'
    return f'<td style="background:#{levels.hex()};color:{ink}">{value}</td>'


def _color(share: float) -> bytes:
    """Returns red, green and blue of the color map at 0 to 1, each from 0 to 255."""
    at = min(max(share, 0), 1) * (len(_CIVIDIS) - 1)
    # The last color is the end of the last step.
    below = min(int(at), len(_CIVIDIS) - 2)
    low = bytes.fromhex(_CIVIDIS[below])
    high = bytes.fromhex(_CIVIDIS[below + 1])
    mixed = []
    for dark, light in zip(low, high, strict=True):
        mixed.append(round(dark + (light - dark) * (at - below)))
    return bytes(mixed)


def _linear(level: int) -> float:
    """Returns the light of a level from 0 to 255, 0 to 1: screens show less of low levels."""
    share = level / 255
    if share <= 0.04045:
        return share / 12.92
    return ((share + 0.055) / 1.055) ** 2.4
