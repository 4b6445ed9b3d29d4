"""What is refused in the settings of every training. Nothing here imports torch."""

import math

from longreach.errors import UsageError


def check_at_least(settings: object, least: int, *names: str) -> None:
    """Raises UsageError where one of the fields is given and below `least`."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < least:
            raise UsageError(f"{name} is {value}; give at least {least}.")


def check_rate(name: str, value: float | None) -> None:
    """Raises UsageError where a learning rate is given that is not above 0, or has no end."""
    # Written so that NaN is refused too, with which every comparison is false.
    if value is not None and not 0 < value < math.inf:
        raise UsageError(f"{name} is {value}; give a number above 0, such as 3e-4.")


def check_weight(name: str, value: float) -> None:
    """Raises UsageError where a weight or a scale is negative, or has no end."""
    if not 0 <= value < math.inf:
        raise UsageError(f"{name} is {value}; give 0 or more.")


def check_share(name: str, value: float, *, whole: bool = False) -> None:
    """Raises UsageError where a share is out of range.

    Args:
        name: What it is.
        value: The share.
        whole: Whether all of it, 1, is a share too.
    """
    if not 0 <= value <= 1 or (value == 1 and not whole):
        most = "to 1" if whole else "to below 1"
        raise UsageError(f"{name} is {value}; give a share from 0 {most}.")


def check_seed(seed: int) -> None:
    """Raises UsageError where a seed is none that every library takes."""
    # NumPy takes no larger ones.
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed is {seed}; give 0 to {2**32 - 1}.")
