"""Texts as they are compared: marks that look alike become one, and answers become lists of words.

Papers: Rajpurkar et al. 2016, SQuAD (arXiv 1606.05250): lower case, no punctuation, no articles.
Lewis et al. 2020, MLQA (arXiv 1910.07475): all of Unicode's punctuation, and every character of
Chinese is a word. On ASCII text the words are those of SQuAD's own script.
"""

import re
import string
import unicodedata

_ARTICLES = re.compile(r"\b(a|an|the)\b")
# Scripts that set no spaces between words: Thai, Lao, Tibetan, Myanmar, Khmer, Japanese kana,
# Chinese characters.
_UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\ua9e0-\ua9ff\uaa60-\uaa7f"
    "\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303c\u3040-\u30ff\u31f0-\u31ff"
    "\u2e80-\u2fdf\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
# Words of such a script are its characters, each with the marks that stand on it; other words are
# set apart by spaces.
_WORDS = re.compile(
    rf"[{_UNSPACED}][\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece]*|[^\s{_UNSPACED}]+"
)


class _Twins(dict[int, str | None]):
    """What a character is replaced by where NFKC keeps it apart from its plain twin.

    It is found when the character is first met.
    """

    def __missing__(self, code: int) -> str | None:
        category = unicodedata.category(chr(code))
        found: str | None = chr(code)
        if category == "Pd":
            found = "-"
        elif category == "Cf" or code in _UNSEEN:
            found = None
        self[code] = found
        return found


class _NoPunctuation(dict[int, str | None]):
    """Drops every punctuation mark of Unicode, and the symbols of ASCII that SQuAD removes too."""

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        removed = character in string.punctuation or unicodedata.category(character).startswith("P")
        self[code] = None if removed else character
        return self[code]


# Characters that show nothing though they are not format characters: fillers, joiners and variation
# selectors.
_UNSEEN = {
    0x034F,
    0x115F,
    0x1160,
    0x17B4,
    0x17B5,
    0x3164,
    0xFFA0,
    *range(0x180B, 0x1810),
    *range(0xFE00, 0xFE10),
}
_UNSEEN |= {*range(0xE0100, 0xE01F0)}
_TWINS = _Twins()
_TWINS |= dict.fromkeys(
    map(ord, "\u2018\u2019\u201a\u201b\u2032\u2039\u203a\u00b4\u02b9\u02bb\u02bc\u02c8"), "'"
)
_TWINS |= dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\u02ba"), '"')
# Minus signs, the slashes of fractions, and Tibetan's mark between syllables, which is a space.
_TWINS |= {0x2212: "-", 0x2796: "-", 0x2044: "/", 0x2215: "/", 0x0F0B: " "}
_NO_PUNCTUATION = _NoPunctuation()


def plain(text: str) -> str:
    """Returns a text in which what only looks different is the same.

    ASCII text comes back as it is. Compatibility forms (full width, ligatures, other spaces) are
    composed as NFKC has it, curly and angled quotation marks are straight, every dash is a hyphen,
    and what shows nothing, such as a soft hyphen, is gone.
    """
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", text.translate(_TWINS)).translate(_TWINS)


def folded(text: str) -> str:
    """Returns `plain` text without the difference of upper and lower case.

    "Straße" and "STRASSE" are one.
    """
    if text.isascii():
        return text.lower()
    # The Turkish capital dotted I folds to an "i" with a dot above it, which a plain one has
    # already.
    return unicodedata.normalize("NFKC", plain(text).casefold()).replace("i\u0307", "i")


def words(text: str, *, articles: bool = False) -> list[str]:
    """Returns the words of an answer as SQuAD and MLQA compare them.

    Args:
        text: The answer.
        articles: Keep "a", "an" and "the".
    """
    bare = folded(text).translate(_NO_PUNCTUATION)
    if not articles:
        bare = _ARTICLES.sub(" ", bare)
    return bare.split() if bare.isascii() else _WORDS.findall(bare)
