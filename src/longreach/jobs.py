"""What a corpus hands to a compressor, and what comes back. Floor 0, so that neither room needs the
other.

n: vectors of a segment, d: hidden size.
"""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class Job(NamedTuple):
    """One document to compress.

    Attributes:
        key: whatever the caller uses to name the document; it comes back with every result.
        ids: token ids of the whole document, any length, no BOS.
        done: vectors of the first `len(done)` segments where they exist already; work goes on after
            them.
    """

    key: Hashable
    ids: Sequence[int]
    done: "Sequence[torch.Tensor]" = ()


class SegmentVectors(NamedTuple):
    """The vectors [n, d] of segment number `segment` of the document `key`."""

    key: Hashable
    segment: int
    vectors: "torch.Tensor"
