"""Numbers as a spreadsheet shows them: the common formats, and plain digits for the rest."""

import datetime
import re
from decimal import ROUND_HALF_UP, Context, Decimal

_CORE = re.compile(r"[#0?,]*(?:\.[0#?]+)?")
# What stands in a format beside digits: a quoted text, an escaped sign, a currency, a width, a
# filler, a color.
_PIECES = re.compile(r'"([^"]*)"|\\(.)|\[\$([^\]\-]*)[^\]]*\]|_.|\*.|\[[^\]]*\]|([$€£¥ ()+:%-])')
# A section that holds only for some numbers, such as `[<100]0.00;0`.
_CONDITION = re.compile(r"\[[<>=]")
_MOST_DIGITS = 30
# Room for that many digits on either side of the point; Python's own context has 28 in all.
_EXACT = Context(prec=3 * _MOST_DIGITS)


def show_value(value: object, number_format: str) -> str:
    """Returns the value of a cell as text, with dates as in ISO 8601, and TRUE and FALSE."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, datetime.datetime):
        # Midnight is what a date without a time is stored as.
        if value.time() == datetime.time() and not re.search("[hs]", number_format.lower()):
            return value.date().isoformat()
        return value.isoformat(" ", _choose_precision(value))
    if isinstance(value, datetime.timedelta):
        return _show_duration(value)
    if isinstance(value, datetime.time):
        return value.isoformat(_choose_precision(value))
    if isinstance(value, (int, float)):
        return _show_number(value, number_format)
    return str(value)


def _choose_precision(value: datetime.datetime | datetime.time) -> str:
    return "seconds" if value.second else "minutes"


def _show_duration(value: datetime.timedelta) -> str:
    seconds = round(value.total_seconds())
    minutes, rest = divmod(abs(seconds), 60)
    sign = "-" if seconds < 0 else ""
    return f"{sign}{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _show_number(value: int | float, number_format: str) -> str:
    if _CONDITION.search(number_format):
        return _show_plain(value)
    sections = _split_sections(number_format)
    section = sections[0]
    amount = value
    if len(sections) > 2 and value == 0:
        section = sections[2]
    elif len(sections) > 1 and value < 0:
        # The format for negative numbers brings its own sign.
        section = sections[1]
        amount = -value
    shown = _apply(amount, section)
    if shown is None:
        return _show_plain(value)
    return shown


def _split_sections(number_format: str) -> list[str]:
    # A semicolon in quotation marks parts nothing.
    quoted = re.split(r'("[^"]*"|\\.)', number_format)
    sections = [""]
    for index, piece in enumerate(quoted):
        if index % 2:
            sections[-1] += piece
            continue
        first, *others = piece.split(";")
        sections[-1] += first
        sections += others
    return sections


def _apply(value: int | float, section: str) -> str | None:
    """Writes a number by one format; None if the format is of an unknown kind."""
    match = re.search(r'(?:"[^"]*"|\\.|\[[^\]]*\]|_.|\*.|[^#0?"\\\[_*])*?(?=[#0?])', section)
    if "general" in section.lower():
        return None
    if match is None:
        return _read_literals(section) or None
    core = _CORE.match(section, match.end())
    assert core is not None, "the expression matches nothing at all, too"
    digits = core[0]
    before = _read_literals(section[: match.end()])
    after = _read_literals(section[match.end() + len(digits) :])
    if before is None or after is None:
        return None
    # A comma at the end cuts thousands off.
    if not digits.strip(",") or digits.endswith(","):
        return None
    # `repr` gives the digits that the file has, not those of the binary fraction.
    number = Decimal(repr(value) if isinstance(value, float) else value)
    if not number.is_finite() or number.adjusted() > _MOST_DIGITS:
        return None
    # The file stores 0.5 for 50%.
    if "%" in before + after:
        number = _EXACT.multiply(number, 100)
    whole, _, decimals = digits.partition(".")
    last_place = Decimal(1).scaleb(-min(len(decimals), _MOST_DIGITS))
    rounded = number.quantize(last_place, ROUND_HALF_UP, _EXACT)
    size = rounded.copy_abs()
    text = f"{size:,f}" if "," in whole else f"{size:f}"
    head, dot, tail = text.partition(".")
    if decimals and decimals[-1] in "#?":
        # These places are shown only as far as there are digits.
        least = len(decimals.rstrip("#?"))
        tail = tail[:least] + tail[least:].rstrip("0")
        if not tail:
            dot = ""
    if head == "0" and "0" not in whole:
        head = ""
    text = head.rjust(whole.count("0"), "0") + dot + tail
    sign = "-" if rounded < 0 else ""
    return f"{sign}{before.lstrip()}{text}{after}".strip() or None


def _read_literals(part: str) -> str | None:
    """Returns the text in a part of a format without digits; None where it holds more than text."""
    text = ""
    place = 0
    while place < len(part):
        match = _PIECES.match(part, place)
        if match is None:
            return None
        text += match[1] or match[2] or match[3] or match[4] or ""
        place = match.end()
    return text


def _show_plain(value: int | float) -> str:
    """Returns a number without a format: 15 digits are those that a spreadsheet keeps."""
    if isinstance(value, int):
        return str(value)
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.15g}"
