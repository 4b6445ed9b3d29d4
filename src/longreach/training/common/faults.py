"""What a full memory or a full disk becomes while a model is trained: one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from longreach.errors import LongreachError, TrainingError, out_of_memory

# What safetensors and the system say of a full disk, and what torch.save does.
_DISK_FULL = ("No space left on device", "PytorchStreamWriter")


@contextmanager
def explain_full(lower: str) -> Iterator[None]:
    """Says what to do where memory or the disk is full.

    Args:
        lower: What takes less memory, after "lower".

    Raises:
        TrainingError: One of them is full.
    """
    try:
        yield
    except LongreachError:
        raise
    except Exception as error:
        if any(sign in str(error) for sign in _DISK_FULL):
            raise TrainingError(
                "A checkpoint does not fit on the disk: free some space and run the same command"
                " again, it resumes from the last whole one."
            ) from error
        if not out_of_memory(error):
            raise
        raise TrainingError(f"Out of memory: lower {lower}; the last checkpoint stays.") from error
