"""What prose looks like in any language, and what a wrong reading of its bytes leaves in it."""

import re
import unicodedata
from collections.abc import Iterable

from longreach.corpus.documents.encodings.alphabets import find_script

_SYMBOLS = ("No", "Po", "Ps", "Pe", "Pi", "Pf", "Sc", "Sk", "Sm", "So")
# In prose a control character never occurs; a capital after a small letter or a symbol inside a
# word is rare.
_ODD = re.compile(r"x|[al]U|lA|[aAlU]s(?=[aAlU])")
_WORD = re.compile(r"[^\W\d_]+")
_TOLERATED = 0.02


def is_foreign(character: str) -> bool:
    """Returns whether a character is a letter beyond ASCII."""
    return character > "\x7f" and character.isalpha() and character not in "ªºµ"


def is_control(character: str) -> bool:
    """Returns whether a character is a control character, or has no meaning."""
    return unicodedata.category(character) in ("Cc", "Co", "Cn") and character not in "\t\n\v\f\r"


def has_controls(text: Iterable[str]) -> bool:
    """Returns whether there are control characters or unassigned ones, which no text contains."""
    return any(map(is_control, set(text)))


def count_beyond_ascii(text: str) -> int:
    """Returns the number of characters that are not ASCII."""
    return sum(character > "\x7f" for character in text)


def count_oddities(text: str) -> int:
    """Returns how many characters stand where a wrong codec, and not a writer, would put them."""
    codes = {ord(character): _classify(character) for character in set(text)}
    return len(_ODD.findall(text.translate(codes)))


def _classify(character: str) -> str:
    """Returns the letter that stands for a kind of character in `_ODD`."""
    kind = unicodedata.category(character)
    plain = character < "\x80"
    if kind == "Lu":
        return "A" if plain else "U"
    if kind == "Ll":
        return "a" if plain else "l"
    if is_control(character) or character == "\ufffd":
        return "x"
    # Ordinal signs are letters to Unicode. Apostrophes and the like do stand inside words.
    if character in "ªº" or (not plain and character not in "´’…·" and kind in _SYMBOLS):
        return "s"
    return "."


def is_prose(text: str) -> bool:
    """Returns whether few characters are odd and few words mix scripts."""
    if count_oddities(text) > _TOLERATED * max(1, count_beyond_ascii(text)):
        return False
    # By character, because `find_script` is slow.
    scripts = {character: find_script(character) for character in set(text)}
    words = 0
    mixed = 0
    for word in _WORD.findall(text):
        if word.isascii():
            continue
        words += 1
        found = set(map(scripts.__getitem__, word))
        mixed += len(found) > 1 and "" not in found
    return mixed <= _TOLERATED * max(1, words)
