"""Which encoding undeclared bytes are in, if one reading is right and all others are not.

Many code pages give prose that looks right for the same bytes: "szerződő" is "szerzõdõ" in another.
So each reading is compared with every other one: its letters must be those of a language, and its
pairs of letters that language's, clearly more so than those of all other readings.
"""

import re
from collections import Counter
from itertools import chain
from typing import NamedTuple

from longreach.corpus.documents.encodings.alphabets import ALPHABETS, COMMON_WORDS, find_script
from longreach.corpus.documents.encodings.candidates import MULTIBYTE, SINGLE_BYTE, USUAL_FIRST
from longreach.corpus.documents.encodings.prose import (
    has_controls,
    is_foreign,
    is_prose,
)
from longreach.corpus.documents.encodings.western import find_codec

_WORD = re.compile(r"[^\W\d_]+")
_TAG = re.compile(rb"<[^<>]*>")
_BOXES = re.compile("[\u2500-\u25ff⌐⌠⌡]")
_SAMPLE = 16_384
# How alike to its language a reading must be (a cosine, of at most about 0.4 for real prose), and
# how many times as much as the next. Chosen so that of 5,000 texts in 50 languages and 100 pairs of
# language and encoding, from single sentences to twenty, none was read wrong.
_LEAST_LIKENESS = 0.04
_SURE_LIKENESS = 0.15
_LEAD = 2.0
_SURE_LEAD = 1.3
# A few letters of Latin script stand among many of ASCII that tell the language; others tell it
# themselves.
_LEAD_OVER_UNSCORED = 3.0
# Languages that the detector does not know: it can only say how alike a text in them is to another
# one.
_UNSCORED = ("af", "az", "bs", "ca", "eu", "fo", "gl", "hsb", "lb", "sq")
_LEAST_FOREIGN = 3
_STRANGE_TOLERATED = 0.02
_LEAST_OF_OTHER_SCRIPT = 12


class _Reading(NamedTuple):
    """The same bytes in one encoding, or in several that agree on them."""

    codecs: list[str]
    text: str


class _Scored(NamedTuple):
    """A reading, how alike to a language it is, and to which."""

    likeness: float
    language: str
    reading: _Reading


def guess(raw: bytes, markup: bool = False) -> str | None:
    """Decodes bytes in an encoding of before UTF-8; None unless one reading is proven.

    Args:
        raw: Bytes that are not UTF-8.
        markup: Whether there are tags in them, which prove nothing.
    """
    prose = raw
    if markup:
        prose = _TAG.sub(b" ", raw)
    proven = find_codec(prose, USUAL_FIRST)
    if proven is not None:
        return _decode_whole(raw, proven)
    western = _decode_whole(raw, "cp1252")
    if western is not None and _is_known(_decode(prose, "cp1252") or ""):
        return western
    best = _find_best(raw, _take_sample(prose))
    if best is None:
        return None
    return _decode_whole(raw, best.reading.codecs[0])


def _find_best(raw: bytes, sample: bytes) -> _Scored | None:
    """Returns the reading that a language fits clearly better than all others, if there is one."""
    readings = _list_readings(raw, sample)
    # Those that nobody would write are no rivals either.
    plausible = [reading for reading in readings if _is_of_some_language(reading.text)]
    scored = _score(sample, readings)
    best = None
    for item in scored:
        if item.reading in plausible:
            best = item
            break
    if best is None or not _is_enough(best):
        return None
    for rival in scored:
        lead = 1.0
        if rival.reading in plausible:
            lead = _choose_lead(best, rival)
        if rival is best or best.likeness >= lead * rival.likeness:
            continue
        if not _refutes(best.reading.text, rival.reading.text):
            return None
    return best


def _choose_lead(best: _Scored, rival: _Scored) -> float:
    """Returns how many times as alike as a plausible rival the best reading must be."""
    if _may_be_unscored(rival.reading.text):
        return _LEAD_OVER_UNSCORED
    return _SURE_LEAD if best.likeness >= _SURE_LIKENESS else _LEAD


def _may_be_unscored(text: str) -> bool:
    """Returns whether a text may be in one of the languages that the detector does not know."""
    if "LATIN" not in map(find_script, filter(is_foreign, text)):
        return False
    return any(_is_in_language(text, language) for language in _UNSCORED)


def _is_enough(best: _Scored) -> bool:
    """Returns whether a reading is long enough to tell its language, and written in its letters."""
    text = best.reading.text
    scripts = Counter(map(find_script, filter(is_foreign, text)))
    latin = scripts["LATIN"]
    others = scripts.total() - latin
    if latin >= others:
        enough = latin >= _LEAST_FOREIGN and best.likeness >= _LEAST_LIKENESS
    else:
        enough = others >= _LEAST_OF_OTHER_SCRIPT and best.likeness >= _SURE_LIKENESS
    return enough and _is_in_language(text, best.language)


def _refutes(text: str, rival: str) -> bool:
    """Returns whether all letters that only this text has are symbols in its rival.

    The symbols stand next to letters, as in "c½ur".
    """
    if len(text) != len(rival):
        return False
    for place, (letter, symbol) in enumerate(zip(text, rival, strict=True)):
        if letter == symbol:
            continue
        around = rival[max(0, place - 1) : place] + rival[place + 1 : place + 2]
        if not letter.isalpha() or symbol.isalpha():
            return False
        if any(map(str.isdigit, around)) or not any(map(str.isalpha, around)):
            return False
    return True


def _is_known(text: str) -> bool:
    """Returns whether the words with letters beyond ASCII are all common in one language."""
    found = {word.lower() for word in _WORD.findall(text) if not word.isascii()}
    foreign = [character for character in text if character > "\x7f"]
    if len(found) < 2 or len(foreign) < _LEAST_FOREIGN:
        return False
    if not all(map(str.isalpha, foreign)):
        return False
    return any(map(found.issubset, COMMON_WORDS.values()))


def _take_sample(raw: bytes) -> bytes:
    """Returns the first lines with bytes beyond ASCII, up to a limit."""
    if len(raw) <= _SAMPLE:
        return raw
    lines = []
    left = _SAMPLE
    for line in raw.split(b"\n"):
        if line.isascii():
            continue
        piece = line[:left]
        if len(piece) < len(line):
            # At a blank no character is cut.
            piece = piece[: max(piece.rfind(b" "), 0)]
        lines.append(piece)
        left -= len(piece) + 1
        if left <= 0:
            break
    return b"\n".join(lines)


def _list_readings(raw: bytes, sample: bytes) -> list[_Reading]:
    """Returns what the bytes may say, each text once."""
    found: dict[str, _Reading] = {}
    # In these an encoding that reads each byte the same reads all of the text the same.
    used = bytes(sorted(set(raw)))
    for codec in SINGLE_BYTE:
        key = _decode(used, codec)
        text = _decode(sample, codec)
        if key is None or text is None:
            continue
        if not has_controls(key) and not _BOXES.search(key):
            _put(found, key, codec, text)
    for codec in MULTIBYTE:
        text = _decode(sample, codec)
        if text is not None and not has_controls(text):
            _put(found, f"{codec} {text}", codec, text)
    return [reading for reading in found.values() if is_prose(reading.text)]


def _put(found: dict[str, _Reading], key: str, codec: str, text: str) -> None:
    if key in found:
        found[key].codecs.append(codec)
    else:
        found[key] = _Reading([codec], text)


def _is_of_some_language(text: str) -> bool:
    """Returns whether a language has all the letters.

    A few letters of another script in Latin text belong to none.
    """
    counts = Counter(map(find_script, filter(is_foreign, text)))
    latin = sum(character < "\x80" and character.isalpha() for character in text)
    others = counts.total() - counts["LATIN"]
    if others and latin > 3 * others:
        return False
    if counts["LATIN"] or counts["CYRILLIC"]:
        return any(_is_in_language(text, language) for language in ALPHABETS)
    return True


def _is_in_language(text: str, language: str) -> bool:
    """Returns whether a language has the letters of a text, with few exceptions.

    This is true of every text in a script that only one language has.
    """
    letters = Counter(filter(is_foreign, text.lower()))
    if {"LATIN", "CYRILLIC"}.isdisjoint(map(find_script, letters)):
        return True
    alphabet = ALPHABETS.get(language, frozenset())
    strange = 0
    for letter, count in letters.items():
        if letter not in alphabet:
            strange += count
    return strange <= _STRANGE_TOLERATED * letters.total()


def _score(sample: bytes, readings: list[_Reading]) -> list[_Scored]:
    """Returns the readings by their likeness to a language, the best first."""
    codecs = chain.from_iterable(reading.codecs for reading in readings)
    likeness = _measure(sample, list(codecs))
    scored = []
    for reading in readings:
        found = likeness
        if _is_in_capitals(reading.text):
            # The detector knows little of capitals.
            small = _encode(reading.text.lower(), reading.codecs[0])
            found = {}
            if small is not None:
                found = _measure(small, reading.codecs)
        best = (0.0, "")
        for codec in reading.codecs:
            best = max(best, found.get(codec, best))
        scored.append(_Scored(best[0], best[1], reading))
    return sorted(scored, key=lambda item: -item.likeness)


def _is_in_capitals(text: str) -> bool:
    letters = list(filter(str.isalpha, text))
    return 2 * sum(map(str.isupper, letters)) > len(letters)


def _measure(sample: bytes, codecs: list[str]) -> dict[str, tuple[float, str]]:
    """Returns how alike to a language, and to which, the text in each encoding is."""
    import chardet

    found: dict[str, tuple[float, str]] = {}
    if not codecs:
        return found
    for result in chardet.detect_all(
        sample, ignore_threshold=True, include_encodings=codecs, compat_names=False
    ):
        codec = result["encoding"]
        if codec is not None:
            found[codec] = (result["confidence"], result["language"] or "")
    return found


def _decode_whole(raw: bytes, encoding: str) -> str | None:
    """Decodes bytes; None unless they are text in this encoding to their end."""
    text = _decode(raw, encoding)
    if text is None or has_controls(text):
        return None
    return text


def _decode(raw: bytes, encoding: str) -> str | None:
    try:
        return raw.decode(encoding)
    except (LookupError, UnicodeError):
        return None


def _encode(text: str, encoding: str) -> bytes | None:
    try:
        return text.encode(encoding)
    except UnicodeError:
        return None
