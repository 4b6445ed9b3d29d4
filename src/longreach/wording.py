"""How things are said to people: counts ("1 question"), times, and the text of others safely."""

import re
import sys


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Returns a number with its noun.

    Args:
        number: How many; thousands are set apart by commas.
        noun: The noun of one.
        plural: The noun of several, where it is not `noun` with an "s", or "ies" in the place of a
            "y".
    """
    return f"{number:,} {noun_of(number, noun, plural)}"


def noun_of(number: float, noun: str, plural: str | None = None) -> str:
    """Returns the noun alone in the form that a number takes; arguments as in `counted`."""
    if number == 1:
        return noun
    if plural is not None:
        return plural
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


# Characters that move the cursor, color, ring, break lines or turn round what stands beside them:
# control characters, separators of lines and paragraphs, embeddings, overrides and isolates of
# writing direction. Not the marks of direction and the joiners that Arabic, Hebrew, Persian and
# Hindi are written with.
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb]")


def printable(text: str, *, lines: bool = False) -> str:
    """Returns a text as a terminal may get it.

    What would steer the terminal is written as `\\x1b` or `\\u202e`. Names of files, passages and
    answers hold whatever others wrote into them.

    Args:
        text: The text.
        lines: Keep its line ends and tabs; else it is one line, whatever is in it.
    """

    def escape(found: re.Match[str]) -> str:
        character = found[0]
        if lines and character in "\n\t":
            return character
        return character.encode("unicode_escape").decode()

    return _STEERING.sub(escape, text)


def say_on_stderr(text: str) -> None:
    """Says a line on stderr; nothing in it can steer the terminal."""
    print(printable(text), file=sys.stderr, flush=True)


def format_clock(seconds: float) -> str:
    """Returns a time in hours, minutes and seconds, as 1:02:03."""
    minutes = int(seconds) // 60
    return f"{minutes // 60}:{minutes % 60:02d}:{int(seconds) % 60:02d}"
