"""Counts in words: "1 question", "1,024 questions". Everything that is said to people counts with these."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Returns a number with its noun.

    Args:
        number: how many; thousands are set apart by commas.
        noun: the noun of one.
        plural: the noun of several, where it is not `noun` with an "s", or "ies" in the place of a "y".
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
