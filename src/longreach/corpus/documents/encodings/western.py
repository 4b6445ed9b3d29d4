"""Text in a western language, whose encoding its plain words and typographic signs prove.

Where a text is English, or French, its words of ASCII say so, whatever its encoding is. Then few of
its bytes tell encodings apart: a reading in which quotation marks stand inside words ("r“le"),
words have letters that the language lacks ("pčre"), or every apostrophe is a letter ("donít") is
wrong. What several encodings read alike need not be decided; where readings differ, all but one
must be refuted.
"""

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from longreach.corpus.documents.encodings.alphabets import (
    ALPHABETS,
    COMMON_WORDS,
    FUNCTION_WORDS,
    LOANWORDS,
)
from longreach.corpus.documents.encodings.prose import is_foreign

# A language's most frequent words are this part of all its words at least, and not only one or two
# of them over and over. Other languages have "a", "me", "no" and "was" too.
_LEAST_FREQUENT = 0.2
_LEAST_DISTINCT = 3
# More than this are rather a table of data than prose, and would take long.
_MOST_TOKEN_BYTES = 200_000
_MOST_BYTES_A_TOKEN = 2_000
# How many of a text's tokens may be wrong in the right reading: misprints, and words of other
# languages.
_MISPLACED_TOLERATED = 0.01
_STRANGE_TOLERATED = 0.05
# A reading is refuted by as many wrong tokens, different ones, and by this part of all in which it
# differs.
_LEAST_WRONG = 2
_LEAST_WRONG_PART = 0.25
_MANY_WRONG = 20
_MANY_WRONG_PART = 0.05
# The right one may have this part of them wrong, for people write odd things.
_WRONG_TOLERATED = 0.1
_LEAST_KNOWN_LETTERS = 4
_LEAST_KNOWN_PART = 0.05

_PLAIN_WORD = re.compile(rb"(?<![^\s(\[\"'*_-])[A-Za-z]+(?![^\s)\]\"'.,;:!?*_-])")
_WORD = re.compile(r"[^\W\d_ªºµ]+")
_FOREIGN_LETTERS = re.compile(r"[^\x00-\x7f]+")
_ENDINGS = frozenset({"s", "ll", "re", "ve", "d", "m"})
_FRENCH_LETTERS = frozenset("âèéê")
_SIGNS = frozenset("‘’‚“”„«»‹›–—…£€¥¢¿¡§¶†‡©®™•·°ªº±×÷µ¹²³¼½¾\xa0\xad")
_PRICE = re.compile(r"(?<!\w)[£€¥](?=\d)")
_LETTER_OF_PRICE = re.compile(r"(?<!\w)[^\W\d_\x00-\x7f](?=\d)")
# Signs where nobody writes them. `L` stands for a letter.
_MISPLACED = re.compile(
    (
        r"(?<=L)[‘‚“”„«»‹›§¶†‡©®™](?=L)"
        r"|(?<=L)[£€¥¿¡•°±÷×¢µ¹¼½¾]|[±÷¢¹¼½¾•²³ªº](?=L)"
        r"|(?<!m)(?<=L)[²³]|™(?=L)"
    ).replace("L", r"[^\W\d_µªº]")
)


class _Verdict(NamedTuple):
    """What speaks for and against a token in one reading.

    Attributes:
        misplaced: It has signs or capitals where nobody writes them, or letters in the place of
            signs.
        strange: It has letters that the language lacks.
        known: It has a word of the language's vocabulary.
        likely: It is a price, or "à"; that counts only against a reading in which it is `unlikely`.
        unlikely: It is a letter that is no word, or has one in the place of a currency.
        mixed: It has a word in two scripts.
    """

    misplaced: bool
    strange: bool
    known: bool
    likely: bool
    unlikely: bool
    mixed: bool

    @property
    def is_wrong(self) -> bool:
        return self.misplaced or self.strange


class _WesternReading(NamedTuple):
    codec: str
    tokens: list[str]
    verdicts: list[_Verdict]


def find_codec(raw: bytes, codecs: Sequence[str]) -> str | None:
    """Returns the encoding that a text in a western language is proven to be in.

    It may also be another one that reads the text alike.

    Args:
        raw: The bytes, without tags.
        codecs: All encodings that they may be in, of one byte and of several, the more usual ones
            first.
    """
    words = Counter(word.decode().lower() for word in _PLAIN_WORD.findall(raw))
    language = _find_language(words)
    if language is None:
        return None
    counts = Counter(token for token in raw.split() if not token.isascii())
    sizes = [len(token) for token in counts]
    if sum(sizes) > _MOST_TOKEN_BYTES or max(sizes, default=0) > _MOST_BYTES_A_TOKEN:
        return None
    judge = _Judge(language, words)
    readings = _read(list(counts), codecs, judge)
    numbers = list(counts.values())
    for reading in readings:
        if not _is_plausible(reading, numbers):
            continue
        if all(_is_refuted(rival, reading) for rival in readings):
            return reading.codec
    return None


def _find_language(words: Counter[str]) -> str | None:
    """Returns the language of words of ASCII; None where it is not clear."""
    best = None
    most = 0
    for language, frequent in FUNCTION_WORDS.items():
        known = frequent.intersection(words)
        total = sum(words[word] for word in known)
        is_frequent = total >= _LEAST_FREQUENT * words.total()
        if len(known) >= _LEAST_DISTINCT and is_frequent and total > most:
            best = language
            most = total
    if best == "en" and not {"the", "of", "and"}.intersection(words):
        return None
    return best


def _read(tokens: list[bytes], codecs: Iterable[str], judge: "_Judge") -> list[_WesternReading]:
    """Returns how encodings read tokens, each way once."""
    found: dict[tuple[str, ...], _WesternReading] = {}
    for codec in codecs:
        try:
            texts = [token.decode(codec) for token in tokens]
        except (LookupError, UnicodeError):
            continue
        key = tuple(texts)
        if key not in found and not any(map(_has_controls, texts)):
            found[key] = _WesternReading(codec, texts, [judge.judge(text) for text in texts])
    return list(found.values())


def _has_controls(text: str) -> bool:
    for character in text:
        if character > "\x7f" and unicodedata.category(character) in ("Cc", "Co", "Cn"):
            return True
    return False


def _is_plausible(reading: _WesternReading, numbers: list[int]) -> bool:
    misplaced = 0
    strange = 0
    for verdict, number in zip(reading.verdicts, numbers, strict=True):
        misplaced += verdict.misplaced * number
        strange += verdict.strange * number
    total = sum(numbers)
    return misplaced <= _MISPLACED_TOLERATED * total and strange <= _STRANGE_TOLERATED * total


def _is_refuted(rival: _WesternReading, reading: _WesternReading) -> bool:
    """Returns whether a rival cannot be meant where it differs from a reading.

    This is true of the reading itself.
    """
    differing = 0
    wrong = 0
    wrong_of_rival = 0
    known = 0
    mixed = 0
    for number, token in enumerate(reading.tokens):
        if rival.tokens[number] == token:
            continue
        ours = reading.verdicts[number]
        theirs = rival.verdicts[number]
        if theirs.known and not ours.known:
            return False
        differing += 1
        wrong += ours.is_wrong
        wrong_of_rival += theirs.is_wrong
        mixed += theirs.mixed
        known += (ours.known and not theirs.known) or (ours.likely and theirs.unlikely)
    if not differing:
        return True
    if known and known >= _LEAST_KNOWN_PART * differing and wrong <= _WRONG_TOLERATED * differing:
        return True
    enough = wrong_of_rival >= max(_LEAST_WRONG, _LEAST_WRONG_PART * differing)
    if mixed == differing and not wrong:  # no word has letters of two scripts
        return True
    many = wrong_of_rival >= max(_MANY_WRONG, _MANY_WRONG_PART * differing)
    return (enough or many) and wrong <= _WRONG_TOLERATED * wrong_of_rival


class _Judge:
    """Judges tokens by how people write a language."""

    def __init__(self, language: str, words: Counter[str]) -> None:
        self._language = language
        self._plain = set(FUNCTION_WORDS[language])
        for word, count in words.items():
            if count > 1 and len(word) > 2:
                self._plain.add(word)
        self._known = COMMON_WORDS.get(language, frozenset())
        if language == "en":
            self._known = LOANWORDS.union(*COMMON_WORDS.values())
        self._verdicts: dict[str, _Verdict] = {}

    def judge(self, token: str) -> _Verdict:
        """Returns what speaks for and against a token."""
        if token not in self._verdicts:
            self._verdicts[token] = self._judge(token)
        return self._verdicts[token]

    def _judge(self, token: str) -> _Verdict:
        misplaced = _MISPLACED.search(token) is not None
        strange = False
        known = False
        mixed = False
        for character in set(token):
            if character > "\x7f" and not is_foreign(character) and character not in _SIGNS:
                misplaced = True
        for word in _WORD.findall(token):
            if not any(map(is_foreign, word)):
                continue
            small = word.lower()
            mixed = mixed or _is_mixed(small)
            if small in self._known and not _is_odd(word):
                known = known or len(word) >= _LEAST_KNOWN_LETTERS
            elif _is_odd(word) or self._is_split(word):
                misplaced = True
            else:
                strange = strange or self._is_strange(small)
        alone = token.strip("'\"()[]“”‘’.,;:!?").lower()
        # "à la" and "£5" are "ŕ la" and "Ł5" in another encoding.
        unlikely = len(alone) == 1 and is_foreign(alone) and not _may_stand_alone(alone)
        unlikely = unlikely or _LETTER_OF_PRICE.search(token) is not None
        likely = alone == "à" or _PRICE.search(token) is not None
        return _Verdict(misplaced, strange, known and not misplaced, likely, unlikely, mixed)

    def _is_split(self, word: str) -> bool:
        """Returns whether letters stand where signs belong: the word without them is words."""
        # Of French, and where no encoding has quotation marks or dashes.
        if not _FRENCH_LETTERS.isdisjoint(word):
            return False
        pieces = list(filter(None, _FOREIGN_LETTERS.split(word.lower())))
        if len(pieces) == 2 and pieces[0] in self._plain:
            before, after = pieces
            is_ending = after in _ENDINGS or (after == "t" and before.endswith("n"))
            if self._language == "en" and is_ending:
                return True
        return bool(pieces) and all(len(piece) > 2 and piece in self._plain for piece in pieces)

    def _is_strange(self, word: str) -> bool:
        """Returns whether the language lacks a letter of the word; English lacks none."""
        if self._language == "en":
            return False
        alphabet = ALPHABETS[self._language]
        foreign = set(filter(is_foreign, word))
        return not foreign <= alphabet


def _may_stand_alone(letter: str) -> bool:
    """Returns whether a letter is a word somewhere, as vowels may be."""
    return unicodedata.normalize("NFD", letter)[0] in "aeiouyæøœ" and letter not in "ąęįų"


def _is_odd(word: str) -> bool:
    """Returns whether a word mixes scripts or has a capital after a small letter.

    One of the two letters is beyond ASCII.
    """
    for before, after in itertools.pairwise(word):
        if (before > "\x7f" or after > "\x7f") and before.islower() and after.isupper():
            return True
    return not all(map(_is_latin, word))


def _is_mixed(word: str) -> bool:
    """Returns whether a word has small letters of ASCII and such of another script."""
    return any(map(str.isascii, word)) and not all(map(_is_latin, word))


def _is_latin(character: str) -> bool:
    if character.isascii() or not character.isalpha():
        return True
    return unicodedata.name(character, "").startswith("LATIN")
