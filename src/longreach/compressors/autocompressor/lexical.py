"""The lexical loss: each summary vector names the words of its part of a segment.

It also points where they point.

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


class VectorPart(NamedTuple):
    """What a vector stands for, as shares of the segment's length.

    Attributes:
        start: Where it begins.
        own: How far this vector alone stands for it.
        stop: Where it ends.
    """

    start: float
    own: float
    stop: float


class Lexical(NamedTuple):
    """The two losses, each a mean over vectors, and what is pointed to.

    Attributes:
        naming: In nats.
        pointing: 1 - cosine.
        targets: What the vectors of each segment are to point to, [k, d].
    """

    naming: Tensor
    pointing: Tensor
    targets: list[Tensor]


def parts(summary_tokens: int, least: int) -> list[VectorPart]:
    """Returns the part of each vector where `least` to `summary_tokens` of them are used."""
    found = [(number / least, (number + 1) / least) for number in range(least)]
    count = least
    # Each round halves the parts of the round before; the new vectors take the second halves.
    while len(found) < summary_tokens:
        for number in range(count):
            found.append(((number + 0.5) / count, (number + 1) / count))
        count *= 2
    found = found[:summary_tokens]
    made = []
    for start, stop in found:
        later = [other for other, _ in found if start < other < stop]
        made.append(VectorPart(start, min(later, default=stop), stop))
    return made


def shares(ids: Tensor, weight: Tensor, of: Sequence[VectorPart]) -> Tensor:
    """Returns how much each token [S] counts for each vector, [k, S]; each row sums to 1.

    Args:
        ids: Token ids of a segment.
        weight: What each token of the vocabulary counts, [V].
        of: The part of each vector.
    """
    rows = torch.zeros(len(of), len(ids), device=ids.device)
    for row, part in zip(rows, of, strict=True):
        # In a short segment several vectors may share a token, and none is without one.
        start = min(int(part.start * len(ids)), len(ids) - 1)
        own = max(int(part.own * len(ids)), start + 1)
        stop = int(part.stop * len(ids))
        row[start:own] = 1 / (own - start)
        if stop > own:
            row[own:stop] = _REST / (stop - own)
    # Without a least weight a row of frequent tokens alone could sum to nearly 0.
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
    """Returns both losses.

    Args:
        vectors: [k, d] of each segment.
        segments: Token ids [S_i].
        head: The LM head's weight, [V, d].
        embeddings: Of the input, [V, d].
        counts: `shares` of each segment, [k, S_i].
        length: Of the targets; the mean length of embeddings.
    """
    naming: list[Tensor] = []
    pointing: list[Tensor] = []
    targets: list[Tensor] = []
    for own, ids, share in zip(vectors, segments, counts, strict=True):
        # The logits of all vectors would take more memory than the model's states: computed twice.
        naming.append(checkpoint(_unnamed, own, ids, head, share, use_reentrant=False))
        target = torch.nn.functional.normalize(share @ embeddings[ids].float(), dim=-1).detach()
        alike = torch.nn.functional.cosine_similarity(own.float(), target, dim=-1)
        pointing.append((1 - alike).mean())
        targets.append((target * length).to(own.dtype))
    return Lexical(torch.stack(naming).mean(), torch.stack(pointing).mean(), targets)


def _unnamed(vectors: Tensor, ids: Tensor, head: Tensor, share: Tensor) -> Tensor:
    """Returns how improbable the words of a segment are to its vectors, in nats."""
    expected = torch.nn.functional.linear(vectors, head).float().log_softmax(-1)
    return -(share * expected[:, ids]).sum(-1).mean()
