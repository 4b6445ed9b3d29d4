"""What the names of encodings mean: in pages, what the WHATWG Encoding Standard says.

For a label it takes the superset that is in use, as browsers do.
"""

import functools
import re

from longreach.corpus.documents.encodings import escapes

# Names of the standard, as far as Python's codec of that name is another one, or narrower.
_CODECS = {
    "gbk": "gb18030",
    "big5": "big5hkscs",
    "euc-kr": "cp949",
    "shift_jis": "cp932",
    "windows-874": "cp874",
    "iso-8859-8-i": "iso8859-8",
    "ibm866": "cp866",
    "macintosh": "mac_roman",
    "x-mac-cyrillic": "mac_cyrillic",
    # A page that a program could read up to here is in neither of these.
    "utf-16le": "utf-8",
    "utf-16be": "utf-8",
    "x-user-defined": "windows-1252",
}
# What the standard does not know, or forbids, but is an encoding of text; others are no names of
# encodings at all.
_MORE = re.compile(
    r"(?:cp|ibm|ibm-|x-cp|windows-)\d{3,4}|(?:x-)?mac-?[a-z-]+|utf-?32(?:[lb]e)?|johab|ptcp154|hp-roman8"
)
_SEVEN_BITS = {
    "utf-7": "utf-7",
    "utf7": "utf-7",
    "unicode-1-1-utf-7": "utf-7",
    "csunicode11utf7": "utf-7",
    "hz-gb-2312": "hz",
    "hz": "hz",
    "iso-2022-kr": "iso2022_kr",
    "csiso2022kr": "iso2022_kr",
    "iso-2022-jp": "iso-2022-jp",
    "csiso2022jp": "iso-2022-jp",
    "iso-2022-jp-1": "iso-2022-jp",
    "iso-2022-jp-2": "iso-2022-jp",
    "iso-2022-jp-3": "iso-2022-jp",
    "iso-2022-cn": "",
    "iso-2022-cn-ext": "",
    "replacement": "",
}
_KOI8_U = {ord("╝"): "ў", ord("╬"): "Ў"}
_EUC = re.compile(rb"[\x00-\x7f]+|\x8e[\xa1-\xdf]|\x8f[\xa1-\xfe]{2}|[\xa1-\xfe]{2}")


def is_seven_bit(label: str) -> bool:
    """Returns whether a label names an encoding of ASCII bytes that do not mean ASCII."""
    return _normalize(label) in _SEVEN_BITS


def find_codec(label: str) -> str | None:
    """Returns the codec that `decode` takes for a label; None if it names no encoding of text."""
    import webencodings

    name = _normalize(label)
    if name in _SEVEN_BITS:
        return _SEVEN_BITS[name]
    # The list of the WHATWG, with its hundreds of aliases.
    encoding = webencodings.lookup(name)
    if encoding is not None:
        return _CODECS.get(encoding.name, encoding.name)
    return name if _MORE.fullmatch(name) else None


def decode(raw: bytes, label: str) -> str | None:
    """Decodes bytes as a label says; None if it names no encoding, or the bytes are not in it."""
    codec = find_codec(label)
    if not codec:
        return None
    try:
        if codec == "euc-jp":
            return _decode_euc_jp(raw)
        if codec == "iso-2022-jp":
            return escapes.decode_iso_2022_jp(raw)
        text = raw.decode(codec)
    except (LookupError, UnicodeError):
        return None
    # In pages it has two letters of Belarusian more.
    if codec == "koi8-u":
        return text.translate(_KOI8_U)
    return text


def _normalize(label: str) -> str:
    return label.strip("\t\n\f\r ").lower()


def _decode_euc_jp(raw: bytes) -> str:
    """Decodes EUC-JP with the characters of NEC and IBM, which Python's codec lacks."""
    text = []
    place = 0
    for piece in _EUC.finditer(raw):
        if piece.start() != place:
            break
        place = piece.end()
        text.append(_decode_euc_piece(piece[0]))
    if place != len(raw):
        raise UnicodeDecodeError("euc-jp", raw, place, place + 1, "no character")
    return "".join(text)


@functools.lru_cache(maxsize=20_000)
def _decode_euc_piece(piece: bytes) -> str:
    if piece[0] < 0x80:
        return piece.decode("ascii")
    if piece[0] == 0x8E:
        return piece[1:].decode("cp932")
    if piece[0] == 0x8F:
        return piece.decode("euc_jp")
    return escapes.decode_jis(piece[0] & 0x7F, piece[1] & 0x7F)
