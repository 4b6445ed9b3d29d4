"""What a corpus hands to a compressor, and what comes back."""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from longreach.compressors.memory import Memory


class Job(NamedTuple):
    """One document to compress.

    Attributes:
        key: whatever the caller uses to name the document; it comes back with every result.
        ids: token ids of the whole document, any length, no BOS.
        done: Memories of the first `len(done)` segments where they exist already; work resumes
            after them.
    """

    key: Hashable
    ids: Sequence[int]
    done: "Sequence[Memory]" = ()


class SegmentMemory(NamedTuple):
    """The memory of segment number `segment` of the document `key`."""

    key: Hashable
    segment: int
    memory: "Memory"
