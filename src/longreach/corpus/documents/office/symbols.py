"""What the characters of fonts such as Wingdings show."""


class UnknownSymbol(Exception):
    """A symbol that only its font can show; the message names the font."""


def decode_symbol(character: str, font: str) -> str:
    """Returns the character that a place in a font of symbols shows.

    Raises:
        UnknownSymbol: The place means something in that font only.
    """
    from mammoth.docx.dingbats import dingbats

    code = ord(character)
    place = code
    if 0xF000 <= code <= 0xF0FF:
        place -= 0xF000
    known = dingbats.get((font, place))
    if known is not None:
        return chr(known)
    # The private use area, and halves of characters.
    if 0xE000 <= code <= 0xF8FF or 0xD800 <= code < 0xE000:
        raise UnknownSymbol(f"symbol of the font {font or 'that is not named'}")
    return character
