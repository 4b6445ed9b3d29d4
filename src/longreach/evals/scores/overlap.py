"""How near an answer comes to its references: token F1, exact match, ROUGE-L.

Papers: Rajpurkar et al. 2016, SQuAD (arXiv 1606.05250): F1, exact match; Lin 2004, ROUGE. What a
word is, and which characters are the same: see `longreach.plain`.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from longreach.plain import words

SCORING = 2
"""The number of the rules here and in `metrics`: it rises when an answer may score otherwise."""


def token_f1(answer: str, references: Sequence[str]) -> float:
    """Returns the harmonic mean of precision and recall of words, 0 to 1; the best reference's."""
    return _best(_f1, answer, references)


def exact_match(answer: str, references: Sequence[str]) -> float:
    """Returns 1 where the answer is one of the references, word by word, else 0."""
    return _best(_same, answer, references)


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """Returns the F-measure over the longest common subsequence of words; the best reference's."""
    return _best(_rouge, answer, references)


def _best(
    score: Callable[[list[str], list[str]], float], answer: str, references: Sequence[str]
) -> float:
    said = words(answer)
    return max(score(said, words(reference)) for reference in references)


def _same(answer: list[str], reference: list[str]) -> float:
    return float(answer == reference)


def _f1(answer: list[str], reference: list[str]) -> float:
    # Of "the" against "a" no word is left of either.
    if not answer or not reference:
        return _same(answer, reference)
    # A word counts as often as both have it.
    common = Counter(answer) & Counter(reference)
    return _harmonic_mean(common.total(), answer, reference)


def _rouge(answer: list[str], reference: list[str]) -> float:
    if not answer or not reference:
        return _same(answer, reference)
    # row[n] is the length of the longest subsequence that the words of the answer so far share
    # with the first n words of the reference.
    row = [0] * (len(reference) + 1)
    for word in answer:
        diagonal = 0
        for place, other in enumerate(reference, 1):
            above = row[place]
            if word == other:
                row[place] = diagonal + 1
            else:
                row[place] = max(above, row[place - 1])
            diagonal = above
    return _harmonic_mean(row[-1], answer, reference)


def _harmonic_mean(common: int, answer: list[str], reference: list[str]) -> float:
    return 2 * common / (len(answer) + len(reference))
