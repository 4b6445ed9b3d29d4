"""How much is held out for testing: a number of documents or questions, or a share of them."""

from longreach.errors import UsageError


def check_held_out(held_out: float, *, least: int = 1) -> None:
    """Raises UsageError where this can be neither a number nor a share.

    Args:
        held_out: A whole number, or a share between 0 and 1.
        least: The smallest whole number.
    """
    is_count = held_out >= least and float(held_out).is_integer()
    if not is_count and not 0 < held_out < 1:
        raise UsageError(
            f"{held_out:g} cannot be held out: give a whole number of at least {least}, such as 20,"
            " or a share between 0 and 1, such as 0.1."
        )


def count_held_out(held_out: float, total: int) -> int:
    """Returns how many of a total are to be held out; at least 1 where it is a share."""
    if 0 < held_out < 1:
        return max(1, round(held_out * total))
    return int(held_out)
