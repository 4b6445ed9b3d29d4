"""What methods of compressing are called, and the modes of an AutoCompressor. Imports no torch."""

from typing import Literal, get_args

from longreach.errors import UsageError

MEAN_POOL = "mean-pool"
AUTOCOMPRESSOR = "autocompressor"
WEIGHTED_POOL = "weighted-pool"
UNTRAINED = (MEAN_POOL, AUTOCOMPRESSOR)
"""The methods that make a compressor without a trained folder."""

Mode = Literal["accumulate", "independent", "replace"]
"""What a segment sees of the vectors before it: all, none, or those of the segment before."""


def check_mode(mode: str) -> None:
    """Raises UsageError where an AutoCompressor has no such mode."""
    if mode not in get_args(Mode):
        raise UsageError(f"mode is '{mode}'; it must be one of {', '.join(get_args(Mode))}.")
