"""Text in lines and paragraphs, with white space where CSS's `white-space: normal` shows it."""

import re
import unicodedata
from dataclasses import dataclass, field

_BLANKS = re.compile(r"[ \t\n\r\f]+")
# Anchored to one place in front of the blanks, so that long runs of them take linear time.
_WIDE_BREAK = re.compile(r"(?<=[^\x00-\x7f])[ \t\r\f]*\n[ \t\n\r\f]*(?=[^\x00-\x7f])")
_WORD_REST = re.compile(r"\w*")
# Deeper lists are indented like these.
_DEEPEST_INDENT = 16
_ORDINAL = re.compile(r"st|nd|rd|th|e|er|re|ère|[eè]me|nde?|o|a|os|as|ste|[dt]e", re.IGNORECASE)
_ABBREVIATIONS = frozenset({"TM", "SM", "lle", "lles", "me", "mes", "gr"})
_ROMAN = re.compile(r"\b[IVXLCDM]+$")
_TERM = re.compile(r"[+\-−–±]?[\w.,'′∞]+[+\-−–*]?")


@dataclass
class TextWriter:
    """Collects one run of text: a page, a table cell, or what is raised or lowered.

    Attributes:
        indent: How many lists are open around what is written.
    """

    indent: int = 0
    _parts: list[str] = field(default_factory=list)
    _gap: str = ""
    _segment_break: bool = False
    _marks: list[str] = field(default_factory=list)
    _address: str = ""

    def write(self, text: str) -> None:
        """Appends text whose white space collapses, across elements too."""
        text = text.replace("\u00ad", "")  # a browser shows no soft hyphen inside a line
        start = _BLANKS.match(text)
        if start is not None:
            self.add_space(segment_break="\n" in start[0])
            text = text[start.end() :]
        if not text:
            return
        if not text.isascii():
            text = _WIDE_BREAK.sub(_join_wide, text)
        self._append(_BLANKS.sub(" ", text).removesuffix(" "))
        if text[-1] in " \t\n\r\f":
            self.add_space(segment_break="\n" in text[len(text.rstrip(" \t\n\r\f")) :])

    def write_exactly(self, text: str) -> None:
        """Appends text whose white space is kept, as that of `<pre>`."""
        if text:
            self._append(text.replace("\r\n", "\n"))

    def add_space(self, segment_break: bool = False) -> None:
        """Sets what comes next apart, unless a space or a new line does so already."""
        if not self._gap and self._parts:
            # A space at the begin of a run would stand at the begin of a line.
            self._gap = " "
            self._segment_break = segment_break

    def break_line(self) -> None:
        """Ends the line, as `<br>` does: twice makes an empty line."""
        if "\n" in self._gap:
            self._gap = "\n\n"
        else:
            self._gap = "\n"

    def break_block(self, lines: int) -> None:
        """Ends the line (1) or the paragraph (2)."""
        # A paragraph that ends twice, with its element and with the one around it, ends once.
        self._gap = max(self._gap.strip(" "), "\n" * lines, key=len)

    def mark(self, mark: str) -> None:
        """Puts a list marker, or the signs of a heading or a deletion, before the next text."""
        self._marks.append(mark)

    def unmark(self, mark: str) -> bool:
        """Withdraws a mark that no text followed; returns whether there was one."""
        if mark not in self._marks:
            return False
        self._marks.remove(mark)
        return True

    def close_up(self, text: str) -> None:
        """Appends to the last word, before the white space that follows it."""
        self._parts.append(text)

    def link(self, address: str) -> None:
        """Puts an address in parentheses behind the word that ends here."""
        self._flush_address()
        self._address = address

    def get_base(self) -> str:
        """Returns the last characters of the line, empty where a line begins."""
        if "\n" in self._gap or not self._parts:
            return ""
        # Longer than any word that decides how something raised is written.
        return self._parts[-1][-12:] + self._gap

    def measure(self) -> int:
        """Returns how far it is written, for `since`."""
        return len(self._parts)

    def read_since(self, length: int) -> str:
        """Returns what was written since `length` was this."""
        return "".join(self._parts[length:]).strip()

    def read(self) -> str:
        """Returns all that was written; lines do not end in spaces."""
        self._flush_address()
        return "".join(self._parts)

    def _append(self, text: str) -> None:
        if self._address and not self._gap:
            # An address never stands within a word.
            rest = _WORD_REST.match(text)
            assert rest is not None, "the expression matches nothing at all, too"
            ending = rest[0]
            self._parts.append(ending)
            text = text[len(ending) :]
            self._flush_address()
            if not text:
                return
        self._flush_address()
        gap = self._gap
        self._gap = ""
        if gap == " " and self._segment_break and is_wide(text[0]):
            # A line's end between Chinese or Japanese characters is no space.
            gap = "" if is_wide(self._parts[-1][-1:]) else " "
        begins_line = "\n" in gap or not self._parts
        if begins_line and self._parts:
            self._parts[-1] = self._parts[-1].rstrip("\n")
        if self._parts:
            self._parts.append(gap)
        if begins_line:
            inside = self.indent
            # Before the marker of an item, its own list indents nothing.
            if any(mark.endswith(" ") for mark in self._marks):
                inside -= 1
            self._parts.append("  " * min(max(0, inside), _DEEPEST_INDENT))
        self._parts.extend(self._marks)
        self._marks.clear()
        self._parts.append(text)

    def _flush_address(self) -> None:
        if self._address:
            self._parts.append(f" ({self._address})")
            self._address = ""


def is_wide(character: str) -> bool:
    """Returns whether a character is Chinese or Japanese.

    These are written without spaces, and the end of a line adds none.
    """
    if not character or unicodedata.east_asian_width(character) not in "WF":
        return False
    return not unicodedata.name(character, "").startswith("HANGUL")


def raise_text(base: str, text: str) -> str:
    """Returns raised text as it stands in a line: 10^6 and x^(n+1), but 1st and text[1]."""
    if not base or not any(map(str.isalnum, text)) or text.startswith("["):
        return text
    numbered = base[-1].isdigit() or _ROMAN.search(base) is not None
    if (numbered and _ORDINAL.fullmatch(text)) or text in _ABBREVIATIONS:
        return text
    if (base[-1] in "nN" and text == "o") or "\n" in text:
        return text
    return "^" + enclose(text)


def lower_text(base: str, text: str) -> str:
    """Returns lowered text as it stands in a line: x_i and x_(i+1), but H2O and x1."""
    if not base or not any(map(str.isalnum, text)) or "\n" in text:
        return text
    if text.isdigit() and (base[-1].isalpha() or base[-1] in ")]"):
        return text
    return "_" + enclose(text)


def enclose(text: str) -> str:
    """Returns a term as it is, anything longer in parentheses."""
    if _TERM.fullmatch(text) or (text.startswith("(") and text.find(")") == len(text) - 1):
        return text
    return f"({text})"


def _join_wide(blanks: re.Match[str]) -> str:
    """Removes a line's end between Chinese or Japanese characters, where it is no space."""
    before = blanks.string[blanks.start() - 1]
    after = blanks.string[blanks.end()]
    if is_wide(before) and is_wide(after):
        return ""
    return " "
