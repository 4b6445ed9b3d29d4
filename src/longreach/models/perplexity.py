"""Perplexity by the position of the token that is predicted."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_FIRST_BUCKET = 1024


def buckets(length: int) -> list[tuple[int, int]]:
    """Returns [0, 1K), [1K, 2K), [2K, 4K), [4K, 8K), ... up to `length` positions."""
    edges = [0]
    while edges[-1] < length:
        edges.append(min(length, max(_FIRST_BUCKET, 2 * edges[-1])))
    return list(itertools.pairwise(edges))


def bucket_sums(losses: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    """Returns sums and counts of losses by position.

    Args:
        losses: [T], the t-th of predicting token t + 1; the first token is not predicted, so that
            the last one of these does not count.
        spans: S buckets of positions.

    Returns:
        [S, 2] in float64: the sum of the losses of each bucket, in nats, and how many there are.
    """
    sums = torch.zeros(len(spans), 2, dtype=torch.float64, device=losses.device)
    for bucket, (start, stop) in enumerate(spans):
        # The loss of predicting token t stands at t - 1.
        inside = losses[max(0, start - 1) : min(stop, len(losses)) - 1].double()
        sums[bucket, 0] = inside.sum()
        sums[bucket, 1] = len(inside)
    return sums


def perplexity(nll: float, tokens: float) -> float:
    """Returns the perplexity of a number of tokens whose losses sum to `nll` nats.

    It is infinite where it is too large for a float.
    """
    loss = nll / tokens
    # The exponential of about 709 is the last that a float64 can hold.
    return math.exp(loss) if loss < 700 else math.inf
