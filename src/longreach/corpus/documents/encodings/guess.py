"""Which encoding bytes are in that nobody declared: only where one reading is right and all others
are not.

Many code pages give prose that looks right for the same bytes: "szerződő" is "szerzõdõ" in another.
So each reading is compared with every other one: its letters must be those of a language, and its
pairs of letters that language's, clearly more so than those of all other readings.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

from longreach.corpus.documents.encodings.alphabets import ALPHABETS, COMMON_WORDS, script_of
from longreach.corpus.documents.encodings.western import find_codec

# Python's names, which are also the detector's.
_ENCODINGS = [
    "cp1250",
    "cp1251",
    "cp1252",
    "cp1253",
    "cp1254",
    "cp1255",
    "cp1256",
    "cp1257",
    "cp1258",
    "cp874",
    "koi8-r",
    "koi8-u",
    "koi8-t",
    "kz1048",
    "iso8859-1",
    "iso8859-2",
    "iso8859-3",
    "iso8859-4",
    "iso8859-5",
    "iso8859-6",
    "iso8859-7",
    "iso8859-8",
    "iso8859-9",
    "iso8859-10",
    "iso8859-13",
    "iso8859-14",
    "iso8859-15",
    "iso8859-16",
    "mac-cyrillic",
    "mac-greek",
    "mac-iceland",
    "mac-latin2",
    "mac-roman",
    "mac-turkish",
    "cp437",
    "cp720",
    "cp737",
    "cp775",
    "cp850",
    "cp852",
    "cp855",
    "cp857",
    "cp860",
    "cp861",
    "cp862",
    "cp863",
    "cp865",
    "cp866",
    "cp869",
    "cp1125",
    "hp-roman8",
]
_MULTIBYTE = ("cp932", "euc_jis_2004", "gb18030", "big5hkscs", "cp949")
_USUAL_FIRST = ("cp1252", *_ENCODINGS, *_MULTIBYTE)
_SYMBOLS = ("No", "Po", "Ps", "Pe", "Pi", "Pf", "Sc", "Sk", "Sm", "So")
# In prose a control character never occurs; a capital after a small letter or a symbol inside a
# word is rare.
_ODD = re.compile(r"x|[al]U|lA|[aAlU]s(?=[aAlU])")
_WORD = re.compile(r"[^\W\d_]+")
_TAG = re.compile(rb"<[^<>]*>")
_BOXES = re.compile("[\u2500-\u25ff⌐⌠⌡]")
_TOLERATED = 0.02
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
    sample = _sampled(_TAG.sub(b" ", raw) if markup else raw)
    prose = _TAG.sub(b" ", raw) if markup else raw
    proven = find_codec(prose, _USUAL_FIRST)
    if proven is not None:
        whole = _decoded(raw, proven)
        return whole if whole is not None and not has_controls(whole) else None
    western = _decoded(raw, "cp1252")
    if (
        western is not None
        and not has_controls(western)
        and _is_known(_decoded(prose, "cp1252") or "")
    ):
        return western
    readings = _readings(raw, sample)
    # Those that nobody would write are no rivals either.
    plausible = [reading for reading in readings if _is_of_some_language(reading.text)]
    scored = _score(sample, readings)
    best = next((item for item in scored if item.reading in plausible), None)
    if best is None or not _is_enough(best):
        return None
    for rival in scored:
        lead = 1.0
        if rival.reading in plausible:
            lead = _SURE_LEAD if best.likeness >= _SURE_LIKENESS else _LEAD
            if _may_be_unscored(rival.reading.text):
                lead = _LEAD_OVER_UNSCORED
        if rival is best or best.likeness >= lead * rival.likeness:
            continue
        if not _refutes(best.reading.text, rival.reading.text):
            return None
    whole = _decoded(raw, best.reading.codecs[0])
    return whole if whole is not None and not has_controls(whole) else None


def _may_be_unscored(text: str) -> bool:
    """Whether a text may be in one of the languages that the detector does not know."""
    latin = any(_is_foreign(character) and script_of(character) == "LATIN" for character in text)
    return latin and any(_is_in_language(text, language) for language in _UNSCORED)


def _is_enough(best: _Scored) -> bool:
    """Whether a reading is long enough to tell its language, and written in its letters."""
    text = best.reading.text
    letters = Counter(
        script_of(character) == "LATIN" for character in text if _is_foreign(character)
    )
    if letters[True] >= letters[False]:
        enough = letters[True] >= _LEAST_FOREIGN and best.likeness >= _LEAST_LIKENESS
    else:
        enough = letters[False] >= _LEAST_OF_OTHER_SCRIPT and best.likeness >= _SURE_LIKENESS
    return enough and _is_in_language(text, best.language)


def _refutes(text: str, rival: str) -> bool:
    """Whether all letters that a text has and its rival lacks are symbols in the rival, next to
    letters: "c½ur"."""
    if len(text) != len(rival):
        return False
    for place, (letter, symbol) in enumerate(zip(text, rival, strict=True)):
        if letter == symbol:
            continue
        around = rival[max(0, place - 1) : place] + rival[place + 1 : place + 2]
        if (
            not letter.isalpha()
            or symbol.isalpha()
            or any(character.isdigit() for character in around)
        ):
            return False
        if not any(character.isalpha() for character in around):
            return False
    return True


def _is_known(text: str) -> bool:
    """Whether a text has words with letters beyond ASCII, and all of them are common ones of one
    language."""
    found = {word.lower() for word in re.findall(r"[^\W\d_]+", text) if not word.isascii()}
    foreign = [character for character in text if character > "\x7f"]
    if (
        len(found) < 2
        or len(foreign) < _LEAST_FOREIGN
        or not all(character.isalpha() for character in foreign)
    ):
        return False
    return any(found <= words for words in COMMON_WORDS.values())


def oddities(text: str) -> int:
    """How many characters stand where a wrong codec, and not a writer, would put them."""
    codes = {}
    for character in set(text):
        kind = unicodedata.category(character)
        plain = character < "\x80"
        code = "."
        if kind in ("Lu", "Ll"):
            code = {"Lu": "AU", "Ll": "al"}[kind][not plain]
        elif _is_control(character) or character == "\ufffd":
            code = "x"
        elif character in "ªº" or (not plain and character not in "´’…·" and kind in _SYMBOLS):
            code = "s"
        codes[ord(character)] = code
    return len(_ODD.findall(text.translate(codes)))


def has_controls(text: Iterable[str]) -> bool:
    """Whether there are control characters, or such that have no meaning, which no text
    contains."""
    return any(_is_control(character) for character in set(text))


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Co", "Cn") and character not in "\t\n\v\f\r"


def _is_foreign(character: str) -> bool:
    return character > "\x7f" and character.isalpha() and character not in "ªºµ"


def _sampled(raw: bytes) -> bytes:
    """Returns the first lines with bytes beyond ASCII, up to a limit."""
    if len(raw) <= _SAMPLE:
        return raw
    lines = []
    room = _SAMPLE
    for line in raw.split(b"\n"):
        if line.isascii():
            continue
        piece = line[:room]
        if len(piece) < len(line):
            # At a blank no character is cut.
            piece = piece[: max(piece.rfind(b" "), 0)]
        lines.append(piece)
        room -= len(piece) + 1
        if room <= 0:
            break
    return b"\n".join(lines)


def _readings(raw: bytes, sample: bytes) -> list[_Reading]:
    """Returns what the bytes may say, each text once."""
    found: dict[str, _Reading] = {}
    # In these an encoding that reads each byte the same reads all of the text the same.
    used = bytes(sorted(set(raw)))
    for codec in _ENCODINGS:
        key = _decoded(used, codec)
        text = _decoded(sample, codec)
        if (
            key is not None
            and text is not None
            and not has_controls(key)
            and not _BOXES.search(key)
        ):
            _put(found, key, codec, text)
    for codec in _MULTIBYTE:
        text = _decoded(sample, codec)
        if text is not None and not has_controls(text):
            _put(found, f"{codec} {text}", codec, text)
    return [reading for reading in found.values() if _is_prose(reading.text)]


def _put(found: dict[str, _Reading], key: str, codec: str, text: str) -> None:
    if key in found:
        found[key].codecs.append(codec)
    else:
        found[key] = _Reading([codec], text)


def _is_prose(text: str) -> bool:
    """Whether few characters are odd and few words mix scripts."""
    foreign = sum(character > "\x7f" for character in text)
    if oddities(text) > _TOLERATED * max(1, foreign):
        return False
    scripts = {character: script_of(character) for character in set(text)}
    words = 0
    mixed = 0
    for word in _WORD.findall(text):
        if word.isascii():
            continue
        words += 1
        found = {scripts[character] for character in word}
        mixed += len(found) > 1 and "" not in found
    return mixed <= _TOLERATED * max(1, words)


def _is_of_some_language(text: str) -> bool:
    """Whether a language has all its letters; a few letters of another script in Latin text are of
    none."""
    counts = Counter(script_of(character) for character in text if _is_foreign(character))
    latin = sum(character.isalpha() for character in text if character < "\x80")
    others = sum(counts.values()) - counts["LATIN"]
    if others and latin > 3 * others:
        return False
    if counts["LATIN"] or counts["CYRILLIC"]:
        return any(_is_in_language(text, language) for language in ALPHABETS)
    return True


def _is_in_language(text: str, language: str) -> bool:
    """Whether a language has the letters of a text, but for a few in many; True for scripts that
    one language has."""
    letters = Counter(character for character in text.lower() if _is_foreign(character))
    if not any(script_of(letter) in ("LATIN", "CYRILLIC") for letter in letters):
        return True
    alphabet = ALPHABETS.get(language, frozenset())
    strange = sum(count for letter, count in letters.items() if letter not in alphabet)
    return strange <= 0.02 * letters.total()


def _score(sample: bytes, readings: list[_Reading]) -> list[_Scored]:
    """Returns the readings by their likeness to a language, the best first."""
    codecs = chain.from_iterable(reading.codecs for reading in readings)
    likeness = _likeness(sample, list(codecs))
    scored = []
    for reading in readings:
        found = likeness
        letters = [character for character in reading.text if character.isalpha()]
        if 2 * sum(letter.isupper() for letter in letters) > len(letters):
            # The detector knows little of capitals.
            small = _encoded(reading.text.lower(), reading.codecs[0])
            found = _likeness(small, reading.codecs) if small is not None else {}
        best = max((found.get(codec, (0.0, "")) for codec in reading.codecs), default=(0.0, ""))
        scored.append(_Scored(best[0], best[1], reading))
    return sorted(scored, key=lambda item: -item.likeness)


def _likeness(sample: bytes, codecs: list[str]) -> dict[str, tuple[float, str]]:
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


def _decoded(raw: bytes, encoding: str) -> str | None:
    try:
        return raw.decode(encoding)
    except (LookupError, UnicodeError):
        return None


def _encoded(text: str, encoding: str) -> bytes | None:
    try:
        return text.encode(encoding)
    except UnicodeError:
        return None
