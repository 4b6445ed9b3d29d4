"""The numbers of a DOCX's paragraphs ("1.2", "(a)"): the file stores rules, and readers count."""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from longreach.corpus.documents.office import roman

if TYPE_CHECKING:
    from lxml.etree import _Element

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_LEVELS = 9


@dataclass(frozen=True)
class Rule:
    """How the paragraphs at one level of a list are numbered."""

    form: str = "decimal"
    text: str = ""
    start: int = 1
    only_digits: bool = False
    restarts: bool = True

    @property
    def is_bullet(self) -> bool:
        """Whether the level has a sign instead of a number."""
        return self.form == "bullet"


@dataclass
class _List:
    """One numbered list of the file; several may count together."""

    abstract: str
    rules: dict[int, Rule]
    restarts_at: dict[int, int] = field(default_factory=dict)


class Numbering:
    """Counts the numbered paragraphs of a document in the order in which they come."""

    def __init__(self, root: "_Element | None", list_of_style: dict[str, str]) -> None:
        """Reads the rules.

        Args:
            root: The part with the numbering, if the document has one.
            list_of_style: For the id of each list style, the id of the list it uses.
        """
        self._lists: dict[str, _List] = {}
        self._counts: dict[str, list[int | None]] = {}
        self._begun: set[tuple[str, int]] = set()
        if root is None:
            return
        abstracts = {
            element.get(f"{W}abstractNumId", ""): element
            for element in root.iter(f"{W}abstractNum")
        }
        numbers = {element.get(f"{W}numId", ""): element for element in root.iter(f"{W}num")}
        for number, element in numbers.items():
            abstract = value(element, "abstractNumId")
            # A list may be defined by a style, which names another list.
            style = value(abstracts.get(abstract), "numStyleLink")
            other = numbers.get(list_of_style.get(style, ""))
            if other is not None:
                abstract = value(other, "abstractNumId")
            self._lists[number] = _read_list(element, abstract, abstracts.get(abstract))

    def rule(self, number: str, level: int) -> Rule | None:
        """Returns the rule of a level of a list, or None where there is no such list or level."""
        found = self._lists.get(number)
        return None if found is None else found.rules.get(level)

    def count(self, number: str, level: int) -> str:
        """Counts a paragraph and returns its number as it is shown, such as "1.2" or "(a)"."""
        rule = self.rule(number, level)
        if rule is None:
            return ""
        one = self._lists[number]
        counts = self._counts.setdefault(one.abstract, [None] * _LEVELS)
        if level in one.restarts_at and (number, level) not in self._begun:
            counts[level] = None
        self._begun.add((number, level))
        start = one.restarts_at.get(level, rule.start)
        current = counts[level]
        counts[level] = start if current is None else current + 1
        for lower in range(level + 1, _LEVELS):
            if one.rules.get(lower, rule).restarts:
                counts[lower] = None

        def shown(match: re.Match[str]) -> str:
            which = int(match[1]) - 1
            other = one.rules.get(which, rule)
            count = counts[which]
            return format_number(
                other.start if count is None else count,
                "decimal" if rule.only_digits else other.form,
            )

        return re.sub(r"%([1-9])", shown, rule.text)


def format_number(number: int, form: str) -> str:
    """Writes a number in a form of WordprocessingML; in digits if its letters are unknown."""
    if form == "none":
        return ""
    if form == "decimalZero":
        return f"{number:02d}"
    if form == "ordinal":
        teen = number % 100 in (11, 12, 13)
        return f"{number}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"
    if form in ("lowerLetter", "upperLetter") and 0 < number <= 26 * 30:
        # After z come aa, bb, cc.
        letters = chr(ord("a") + (number - 1) % 26) * ((number - 1) // 26 + 1)
        return letters if form == "lowerLetter" else letters.upper()
    if form in ("lowerRoman", "upperRoman") and 0 < number <= roman.MOST:
        letters = roman.to_roman(number)
        return letters if form == "lowerRoman" else letters.upper()
    return str(number)


def value(element: "_Element | None", child: str) -> str:
    """Returns the value of a property such as `<w:start w:val="3"/>`; "" where it is not there."""
    found = None if element is None else element.find(f"{W}{child}")
    return "" if found is None else found.get(f"{W}val", "")


def whole(text: str, default: int) -> int:
    """Returns a whole number of at most six digits, else `default`, as in damaged files."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,6}", text) else default


def _read_list(number: "_Element", abstract: str, definition: "_Element | None") -> _List:
    rules = {}
    for element in () if definition is None else definition.iter(f"{W}lvl"):
        rules[_level(element)] = _read_rule(element)
    one = _List(abstract, rules)
    for override in number.iter(f"{W}lvlOverride"):
        level = _level(override)
        for element in override.iter(f"{W}lvl"):
            one.rules[level] = _read_rule(element)
        start = value(override, "startOverride")
        if start:
            one.restarts_at[level] = whole(start, 1)
    return one


def _level(element: "_Element") -> int:
    return min(max(whole(element.get(f"{W}ilvl", ""), 0), 0), _LEVELS - 1)


def _read_rule(element: "_Element") -> Rule:
    only_digits = element.find(f"{W}isLgl")
    return Rule(
        form=value(element, "numFmt") or "decimal",
        text=value(element, "lvlText"),
        start=whole(value(element, "start"), 0),
        only_digits=only_digits is not None
        and only_digits.get(f"{W}val", "1") not in ("0", "false"),
        restarts=value(element, "lvlRestart") != "0",
    )
