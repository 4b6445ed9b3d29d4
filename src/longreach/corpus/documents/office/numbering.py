"""The numbers of a DOCX's paragraphs ("1.2", "(a)"): the file stores rules, and readers count."""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from longreach.corpus.documents.numerals import may_be_roman, to_roman
from longreach.corpus.documents.office.names import W
from longreach.corpus.documents.office.properties import is_on, parse_whole, read_value

if TYPE_CHECKING:
    from lxml.etree import _Element

_LEVELS = 9
_ORDINALS = {1: "st", 2: "nd", 3: "rd"}


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
        abstracts = {}
        for element in root.iter(f"{W}abstractNum"):
            abstracts[element.get(f"{W}abstractNumId", "")] = element
        numbers = {}
        for element in root.iter(f"{W}num"):
            numbers[element.get(f"{W}numId", "")] = element
        for number, element in numbers.items():
            abstract = read_value(element, "abstractNumId")
            # A list may be defined by a style, which names another list.
            style = read_value(abstracts.get(abstract), "numStyleLink")
            other = numbers.get(list_of_style.get(style, ""))
            if other is not None:
                abstract = read_value(other, "abstractNumId")
            self._lists[number] = _read_list(element, abstract, abstracts.get(abstract))

    def find_rule(self, number: str, level: int) -> Rule | None:
        """Returns the rule of a level of a list, or None where there is no such list or level."""
        found = self._lists.get(number)
        if found is None:
            return None
        return found.rules.get(level)

    def count(self, number: str, level: int) -> str:
        """Counts a paragraph and returns its number as it is shown, such as "1.2" or "(a)"."""
        rule = self.find_rule(number, level)
        if rule is None:
            return ""
        one = self._lists[number]
        counts = self._counts.setdefault(one.abstract, [None] * _LEVELS)
        # The first paragraph of a list that restarts counts from its own start.
        if level in one.restarts_at and (number, level) not in self._begun:
            counts[level] = None
        self._begun.add((number, level))
        start = one.restarts_at.get(level, rule.start)
        current = counts[level]
        if current is None:
            counts[level] = start
        else:
            counts[level] = current + 1
        # After 1.2 and 2 comes 2.1.
        for lower in range(level + 1, _LEVELS):
            if one.rules.get(lower, rule).restarts:
                counts[lower] = None

        def fill(match: re.Match[str]) -> str:
            which = int(match[1]) - 1
            other = one.rules.get(which, rule)
            # "%1" stands for the number of the first level, which may not have been counted yet.
            number = counts[which]
            if number is None:
                number = other.start
            return format_number(number, "decimal" if rule.only_digits else other.form)

        return re.sub(r"%([1-9])", fill, rule.text)


def format_number(number: int, form: str) -> str:
    """Writes a number in a form of WordprocessingML; in digits if its letters are unknown."""
    # The forms that documents of western languages use.
    if form == "none":
        return ""
    if form == "decimalZero":
        return f"{number:02d}"
    if form == "ordinal":
        ending = _ORDINALS.get(number % 10, "th")
        if number % 100 in (11, 12, 13):
            ending = "th"
        return f"{number}{ending}"
    written = str(number)
    if form in ("lowerLetter", "upperLetter") and 0 < number <= 26 * 30:
        # After z come aa, bb, cc.
        written = chr(ord("a") + (number - 1) % 26) * ((number - 1) // 26 + 1)
    elif form in ("lowerRoman", "upperRoman") and may_be_roman(number):
        written = to_roman(number)
    return written.upper() if form.startswith("upper") else written


def _read_list(number: "_Element", abstract: str, definition: "_Element | None") -> _List:
    one = _List(abstract, {})
    if definition is not None:
        for element in definition.iter(f"{W}lvl"):
            one.rules[_read_level(element)] = _read_rule(element)
    # A list may change single levels of the definition that it shares with others.
    for override in number.iter(f"{W}lvlOverride"):
        level = _read_level(override)
        for element in override.iter(f"{W}lvl"):
            one.rules[level] = _read_rule(element)
        start = read_value(override, "startOverride")
        if start:
            one.restarts_at[level] = parse_whole(start, 1)
    return one


def _read_level(element: "_Element") -> int:
    return min(max(parse_whole(element.get(f"{W}ilvl", ""), 0), 0), _LEVELS - 1)


def _read_rule(element: "_Element") -> Rule:
    return Rule(
        form=read_value(element, "numFmt") or "decimal",
        text=read_value(element, "lvlText"),
        start=parse_whole(read_value(element, "start"), 0),
        only_digits=is_on(element.find(f"{W}isLgl")),
        restarts=read_value(element, "lvlRestart") != "0",
    )
