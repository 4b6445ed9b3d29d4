"""Encodings that write other scripts in bytes of ASCII: ISO-2022, HZ and UTF-7."""

import contextlib
import re
import unicodedata

# Only these begin another set of characters; terminals send many other escapes, `ESC ( B` among
# them.
_DESIGNATION = re.compile(rb"\x1b(?:\$[@AB]|\$[()*+][@-_]|\([IJ])")
_ESCAPE = re.compile(rb"\x1b(?:\([BJI]|\$[@B]|\$\(D)")
_HZ = re.compile(rb"~\{((?:[\x21-\x77][\x21-\x7e])+)~\}")
_BASE64 = re.compile(rb"\+([A-Za-z0-9+/]*)(-?)")
_LEAST_HZ = 3
_LEAST_UTF7 = 2


def is_escaped(raw: bytes) -> bool:
    """Returns whether bytes switch to another set of characters, as ISO-2022-JP and its kind do."""
    return _DESIGNATION.search(raw) is not None


def decode_iso_2022(raw: bytes) -> str | None:
    """Decodes Japanese or Korean with escapes; None if it is in neither, or not clearly in one."""
    texts: set[str] = set()
    with contextlib.suppress(UnicodeError):
        texts.add(decode_iso_2022_jp(raw))
    if b"\x1b$)C" in raw:
        with contextlib.suppress(UnicodeError):
            texts.add(raw.decode("iso2022_kr"))
    return texts.pop() if len(texts) == 1 else None


def decode_iso_2022_jp(raw: bytes) -> str:
    """Decodes ISO-2022-JP with the characters of NEC and IBM, which Python's codecs lack.

    Raises:
        UnicodeError: The bytes are in no kind of it.
    """
    text = []
    mode = b"\x1b(B"
    place = 0
    for escape in _ESCAPE.finditer(raw):
        text.append(_decode_run(raw[place : escape.start()], mode))
        mode = escape[0]
        place = escape.end()
    text.append(_decode_run(raw[place:], mode))
    return "".join(text)


def _decode_run(run: bytes, mode: bytes) -> str:
    """Decodes the bytes between two escapes."""
    if b"\x1b" in run or not run.isascii():
        raise UnicodeDecodeError("iso-2022-jp", run, 0, 1, "no character")
    if mode == b"\x1b(B":
        return run.decode("ascii")
    if mode == b"\x1b(J":
        return run.decode("ascii").replace("\\", "¥").replace("~", "‾")
    # The end of a line ends nothing, but some writers leave it inside.
    lines = re.split(rb"(\r?\n)", run)
    text = []
    for number, line in enumerate(lines):
        if number % 2:
            text.append(line.decode("ascii"))
        elif mode == b"\x1b(I":
            text.append(_set_high_bits(line).decode("cp932"))
        elif len(line) % 2:
            raise UnicodeDecodeError(
                "iso-2022-jp", line, len(line) - 1, len(line), "half a character"
            )
        else:
            for place in range(0, len(line), 2):
                pair = line[place : place + 2]
                if mode == b"\x1b$(D":
                    text.append((b"\x8f" + _set_high_bits(pair)).decode("euc_jp"))
                else:
                    text.append(decode_jis(pair[0], pair[1]))
    return "".join(text)


def _set_high_bits(pair: bytes) -> bytes:
    return bytes(byte | 0x80 for byte in pair)


def decode_jis(row: int, cell: int) -> str:
    """Returns a character of JIS X 0208, with the additions of NEC and IBM, by its two bytes."""
    if not (0x21 <= row <= 0x7E and 0x21 <= cell <= 0x7E):
        raise UnicodeDecodeError("jis", bytes([row & 0xFF, cell & 0xFF]), 0, 2, "no character")
    row -= 0x20
    cell -= 0x20
    # The arithmetic between JIS X 0208 and Shift JIS: two rows share a lead byte.
    lead = (row - 1) // 2 + 0x81
    if row > 62:
        lead += 0x40
    trail = cell + 0x9E
    if row % 2:
        trail = cell + 0x3F + (cell >= 64)
    return bytes([lead, trail]).decode("cp932")


def decode_hz(raw: bytes) -> str | None:
    """Decodes Chinese in HZ; None unless it is certain that the text is in it."""
    characters = 0
    for run in _HZ.finditer(raw):
        pairs = run[1]
        # Rows of punctuation and of the common characters: plain text within braces is rarely in
        # these alone.
        for lead in pairs[::2]:
            if not (0x21 <= lead <= 0x29 or 0x30 <= lead <= 0x57):
                return None
            characters += lead >= 0x30
    if characters < _LEAST_HZ:
        return None
    try:
        return raw.decode("hz")
    except UnicodeError:
        return None


def decode_utf_7(raw: bytes) -> str | None:
    """Decodes UTF-7; None unless every plus sign is part of a valid sequence."""
    found: list[str] = []
    for run in _BASE64.finditer(raw):
        if not run[1]:
            if not run[2]:
                return None
            continue
        characters = _decode_base64(run[1])
        if characters is None:
            return None
        found.append(characters)
    if len(found) < _LEAST_UTF7:
        return None
    scripts = set()
    for letter in filter(str.isalpha, "".join(found)):
        scripts.add(unicodedata.name(letter, "?").partition(" ")[0])
    # Letters of several scripts come out where a plus sign was just a plus sign.
    if len(scripts) != 1:
        return None
    try:
        return raw.decode("utf-7")
    except UnicodeError:
        return None


def _decode_base64(run: bytes) -> str | None:
    """Returns the characters of a run, None if it has others than UTF-7 is for."""
    try:
        text = (b"+" + run + b"-").decode("utf-7")
    except UnicodeError:
        return None
    # A writer of UTF-7 has no reason to write letters and digits of ASCII in this way.
    for character in text:
        is_plain = character.isascii() and character.isalnum()
        if is_plain or unicodedata.category(character)[0] == "C":
            return None
    return text or None
