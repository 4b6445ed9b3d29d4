"""The lexical loss: each summary vector names the words of its part of the segment, and points
where they point.

Answers say little about each vector and reach it through a whole decoder; this says at every
vector, directly, which tokens it is about, the rarer the louder: read by the LM head the vector
gives them high probability, and it lies along the sum of their embeddings, which a decoder soon
learns to read. Every prefix of the vectors covers the segment: the first `least` take equal parts
of it, and each later one the second half of a part before it, so that twice as many vectors see
twice as finely (as in Matryoshka representations, arXiv 2205.13147). What no later vector takes
counts most, so that all of them together divide the segment.

Shapes: S tokens of a segment, k vectors, d hidden size, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_REST = 0.5  # what the part of later vectors counts beside a vector's own


class Part(NamedTuple):
    """What a vector stands for, as shares of the segment's length: all of it, and how far it alone
    does."""

    start: float
    own: float
    stop: float


class Lexical(NamedTuple):
    """The two losses, each a mean over vectors: `naming` in nats, `pointing` as 1 - cosine; and
    what is pointed to."""

    naming: Tensor
    pointing: Tensor
    targets: list[Tensor]


def parts(summary_tokens: int, least: int) -> list[Part]:
    """The part of each vector where `least` to `summary_tokens` of them are used."""
    found, count = [(i / least, (i + 1) / least) for i in range(least)], least
    while len(found) < summary_tokens:
        found += [((i + 0.5) / count, (i + 1) / count) for i in range(count)]
        count *= 2
    found = found[:summary_tokens]
    return [
        Part(start, min([other for other, _ in found if start < other < stop], default=stop), stop)
        for start, stop in found
    ]


def shares(ids: Tensor, weight: Tensor, of: Sequence[Part]) -> Tensor:
    """How much each token [S] counts for each vector, [k, S]; each row sums to 1."""
    rows = torch.zeros(len(of), len(ids), device=ids.device)
    for row, part in zip(rows, of, strict=True):
        start = min(int(part.start * len(ids)), len(ids) - 1)
        own, stop = max(int(part.own * len(ids)), start + 1), int(part.stop * len(ids))
        row[start:own] = 1 / (own - start)
        if stop > own:
            row[own:stop] = _REST / (stop - own)
    rows = rows * weight[ids].clamp(min=1e-3)
    return rows / rows.sum(-1, keepdim=True)


def lexical(
    vectors: Sequence[Tensor],
    segments: Sequence[Tensor],
    head: Tensor,
    embeddings: Tensor,
    counts: Sequence[Tensor],
    *,
    length: float,
) -> Lexical:
    """Both losses.

    Args:
        vectors: [k, d] of each segment.
        segments: token ids [S_i].
        head: the LM head's weight, [V, d].
        embeddings: of the input, [V, d].
        counts: `shares` of each segment, [k, S_i].
        length: that targets get; the mean length of embeddings.
    """
    naming, pointing, targets = list[Tensor](), list[Tensor](), list[Tensor]()
    for own, ids, share in zip(vectors, segments, counts, strict=True):
        naming.append(checkpoint(_unnamed, own, ids, head, share, use_reentrant=False))
        target = torch.nn.functional.normalize(share @ embeddings[ids].float(), dim=-1).detach()
        pointing.append(
            (1 - torch.nn.functional.cosine_similarity(own.float(), target, dim=-1)).mean()
        )
        targets.append((target * length).to(own.dtype))
    return Lexical(torch.stack(naming).mean(), torch.stack(pointing).mean(), targets)


def _unnamed(vectors: Tensor, ids: Tensor, head: Tensor, share: Tensor) -> Tensor:
    expected = torch.nn.functional.linear(vectors, head).float().log_softmax(-1)
    return -(share * expected[:, ids]).sum(-1).mean()
