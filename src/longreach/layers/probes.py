"""Probes: texts of one length whose questions are answered outside the sparse layers' window.

A probe is [filler ; facts among filler ; filler ; questions with their answers]. The facts stand
after the attention sink, and so far before the questions that no query of theirs has a fact in its
window: only layers with full attention can have read it there.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from longreach.errors import UsageError
from longreach.layers.filler import draw_sentences, read_sentences
from longreach.layers.kinds import KINDS, Hidden
from longreach.models.sharing import encode
from longreach.pattern import AttentionPattern
from longreach.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Probe:
    """One text to read, and where in it the answers stand.

    Attributes:
        kind: What kind of retrieval it asks for; a name of `KINDS`.
        ids: Its tokens; all probes of a measurement have equally many.
        question_start: The first token of its questions.
        answers: For each question, the positions of the tokens of its answer.
    """

    kind: str
    ids: tuple[int, ...]
    question_start: int
    answers: tuple[tuple[int, ...], ...]


class _Pieces(NamedTuple):
    """The sentences of a probe in their order, and the characters where its parts begin."""

    text: str
    facts: list[tuple[int, int]]
    questions: int
    answers: list[tuple[int, int]]


def make_probes(
    tokenizer: PreTrainedTokenizerBase,
    pattern: AttentionPattern,
    *,
    length: int = 1024,
    samples: int = 4,
    kinds: Sequence[str] = tuple(KINDS),
    seed: int = 0,
    text: str | None = None,
) -> list[Probe]:
    """Returns probes for a tokenizer; each depends on (seed, kind, index) alone.

    Args:
        tokenizer: The model's, a fast one.
        pattern: Of the sparse layers.
        length: Tokens of each probe.
        samples: Probes of each kind, with three questions each.
        kinds: Names out of `KINDS`.
        seed: Of all chance.
        text: Prose to take the filler from; None makes it of templates.

    Raises:
        UsageError: A kind is unknown or named twice, a number is out of range, the pattern has a
            stride, or the text or the length is too short to hold a fact outside the window.
    """
    _check(pattern, kinds, samples)
    if text is not None:
        tokens = len(encode(tokenizer, text, verbose=False)["input_ids"])
        if tokens < pattern.window_tokens:
            raise UsageError(
                f"The text has {counted(tokens, 'token')} and the window of the sparse layers"
                f" {pattern.window_tokens:,}, so nothing in it lies outside: give a longer text."
            )
    probes = []
    for index in range(samples):
        for kind in kinds:
            chance = random.Random(f"{seed} {kind} {index}")
            sentences = draw_sentences(chance) if text is None else read_sentences(text, chance)
            probes.append(_make(tokenizer, pattern, length, kind, chance, sentences))
    return probes


def digest_probes(probes: Sequence[Probe]) -> str:
    """Returns a name for the probes, by which a measurement that resumes knows its own."""
    return hashlib.sha256(repr(probes).encode()).hexdigest()[:16]


def _check(pattern: AttentionPattern, kinds: Sequence[str], samples: int) -> None:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds or len(set(kinds)) < len(kinds):
        raise UsageError(
            f"The kinds of probes are {', '.join(kinds) or 'none'}: give different ones of"
            f" {', '.join(KINDS)}."
        )
    if samples < 1:
        raise UsageError(f"samples is {samples}; give at least 1 probe of each kind.")
    if pattern.stride:
        raise UsageError(
            "Layers are ranked under an attention sink and a window; a stride would show some of"
            " the answers, so give a pattern with stride 0."
        )


def _make(
    tokenizer: PreTrainedTokenizerBase,
    pattern: AttentionPattern,
    length: int,
    kind: str,
    chance: random.Random,
    sentences: Iterator[str],
) -> Probe:
    hidden = KINDS[kind](chance)
    sink = pattern.sink_blocks * pattern.block_size
    asked = [f"{question.asked} {question.answer}." for question in hidden.questions]

    def count(pieces: Sequence[str]) -> int:
        encoded = encode(tokenizer, [f" {piece}" for piece in pieces], add_special_tokens=False)
        return sum(map(len, encoded["input_ids"]))

    tail = list[str]()
    held = 0
    while held < pattern.window_tokens:
        tail.append(next(sentences))
        held += count(tail[-1:])
    left = length - sink - held - count(asked) - count(hidden.facts)
    if left < 0:
        raise UsageError(
            f"A probe of the kind '{kind}' takes {counted(length - left, 'token')} with a window of"
            f" {pattern.window_tokens:,}, and its length is {length:,}: give a greater length or a"
            " smaller window."
        )
    between = list[str]()
    while True:
        sentence = next(sentences)
        left -= count([sentence])
        if left < 0:
            break
        between.append(sentence)
    body = _spread(hidden.facts, between, chance)
    # What is still missing comes first, where the sink is; more than that is cut off there.
    head = [sentence]
    while True:
        pieces = _join(head, body, tail, hidden)
        probe = _cut(tokenizer, pieces, kind, length, pattern)
        if probe is not None:
            return probe
        head.append(next(sentences))


def _spread(facts: Sequence[str], between: Sequence[str], chance: random.Random) -> list[str]:
    """Returns sentences with facts among them, in the facts' order."""
    places = sorted(chance.choices(range(len(between) + 1), k=len(facts)))
    mixed = list(between)
    # From the last one on, so that the places before it stay what they are.
    for place, fact in reversed(list(zip(places, facts, strict=True))):
        mixed.insert(place, fact)
    return mixed


def _join(head: list[str], body: list[str], tail: list[str], hidden: Hidden) -> _Pieces:
    """Returns the whole text, and which characters of it are facts and answers."""
    text = ""
    facts = []
    for sentence in [*head, *body, *tail]:
        if sentence in hidden.facts:
            facts.append((len(text), len(text) + len(sentence)))
        text += f"{sentence} "
    begins = len(text) - 1
    answers = []
    for question in hidden.questions:
        text += f"{question.asked} "
        answers.append((len(text), len(text) + len(question.answer)))
        text += f"{question.answer}. "
    return _Pieces(text.rstrip(), facts, begins, answers)


def _cut(
    tokenizer: PreTrainedTokenizerBase,
    pieces: _Pieces,
    kind: str,
    length: int,
    pattern: AttentionPattern,
) -> Probe | None:
    """Returns the probe of a text, its beginning cut to the length; None where it is too short."""
    encoded = encode(tokenizer, pieces.text, return_offsets_mapping=True, verbose=False)
    ids = list(encoded["input_ids"])
    spans = list(encoded["offset_mapping"])
    excess = len(ids) - length
    if excess < 0:
        return None
    # What the tokenizer puts first, such as BOS, stays there.
    first = 0
    while first < len(spans) and spans[first][0] == spans[first][1]:
        first += 1
    del ids[first : first + excess]
    del spans[first : first + excess]

    def inside(begin: int, end: int) -> tuple[int, ...]:
        found = []
        for at, (start, stop) in enumerate(spans):
            if start < end and stop > begin and start < stop:
                found.append(at)
        return tuple(found)

    question_start = inside(pieces.questions, len(pieces.text))[0]
    shown = pattern.local_start(question_start // pattern.block_size) * pattern.block_size
    last_fact = max(inside(*fact)[-1] for fact in pieces.facts)
    first_fact = min(inside(*fact)[0] for fact in pieces.facts)
    if last_fact >= shown or first_fact < pattern.sink_blocks * pattern.block_size:
        raise UsageError(
            f"A probe of {counted(length, 'token')} does not hold its facts outside the window:"
            " give a greater length or a smaller window."
        )
    answers = tuple(inside(*answer) for answer in pieces.answers)
    return Probe(kind, tuple(ids), question_start, answers)
