"""Numbers as Roman numerals, which lists of HTML and of DOCX use."""

_VALUES = {
    "m": 1000,
    "cm": 900,
    "d": 500,
    "cd": 400,
    "c": 100,
    "xc": 90,
    "l": 50,
    "xl": 40,
    "x": 10,
    "ix": 9,
    "v": 5,
    "iv": 4,
    "i": 1,
}
# Four thousand would need a letter that is not there.
_MOST_ROMAN = 3999


def to_roman(number: int) -> str:
    """Returns a number from 1 to 3,999 as a Roman numeral in lower case."""
    numeral = ""
    for letters, value in _VALUES.items():
        numeral += letters * (number // value)
        number %= value
    return numeral


def may_be_roman(number: int) -> bool:
    """Returns whether a number has a Roman numeral."""
    return 0 < number <= _MOST_ROMAN
