"""BABILong: bAbI's facts hidden in prose, tasks qa1 to qa5.

Paper: Kuratov et al. 2024, BABILong (arXiv 2406.10149). Facts keep their order and stand at random
gaps between sentences of at least ten tokens; prompts, worked examples and the score are those of
booydar/babilong (Apache-2.0). Two things differ: the length is that of the whole prompt with its
answer, counted, where upstream sets 300 tokens aside for what is not context; and the prose is any
text, where upstream has the books of PG19: call figures "BABILong-style" where it is another. A
sample depends on (seed, task, length, index) alone.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from longreach.errors import UsageError
from longreach.evals.run.sample import Sample
from longreach.evals.suites.babilong.babi import Story, read_stories, tell_story
from longreach.evals.suites.babilong.prompts import PROMPTS
from longreach.evals.suites.draw import PromptParts, check, count_tokens, fit
from longreach.evals.suites.haystack import Prose, read_prose
from longreach.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TASKS = tuple(PROMPTS)
_NEW_TOKENS = 20
_SENTENCE_TOKENS = 10
_TRIES = 20


def generate(
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    *,
    samples: int = 100,
    seed: int = 42,
    tasks: Sequence[str] = TASKS,
    haystack: str | Path | None = None,
    facts: str | Path | None = None,
) -> Iterator[Sample]:
    """Makes the samples of the tasks, one task after the other.

    Each says how many facts it has among its tags.

    Args:
        tokenizer: Of the model that is asked; its tokens are counted.
        length: Tokens of a prompt and its answer together, at most and nearly.
        samples: Of each task.
        seed: Of the stories, where their facts stand, and where the prose begins.
        tasks: Names out of `TASKS`.
        haystack: The prose, see `haystack.read_prose`.
        facts: The folder of bAbI's files, out of whose test questions are drawn those whose facts
            are not longer than the length by themselves; None makes up stories of the same kinds
            (see `babilong.babi`).

    Raises:
        UsageError: A task is unknown, bAbI's files are missing, malformed or hold too few questions
            that fit, or the haystack is shorter than the length.
        ContextError: The length is too small.
    """
    check(tasks, TASKS, "BABILong", samples)
    prose = read_prose(haystack, tokenizer, length, sentence_tokens=_SENTENCE_TOKENS)
    # Files are read before the first sample, so that those that do not do are refused at once.
    drawn = dict[str, list[Story]]()
    if facts is not None:
        for task in tasks:
            drawn[task] = _draw_stories(tokenizer, task, length, samples, seed, facts)

    def walk() -> Iterator[Sample]:
        for task in tasks:
            for index in range(samples):
                stream = f"{seed} {task} {length} {index}"
                if task in drawn:
                    story = drawn[task][index]
                else:
                    story = _make_up(tokenizer, task, length, random.Random(stream))
                # A stream of its own: stories that are made up draw from the other one, stories
                # of files do not.
                chance = random.Random(f"{stream} places")
                parts = _fill(tokenizer, prose, task, length, story, chance)
                yield _make_sample(f"{task}-{length}-{index}", task, length, story, parts)

    return walk()


def _fits(tokenizer: PreTrainedTokenizerBase, task: str, length: int, story: Story) -> bool:
    """Whether a story fits a length without any prose."""
    prompt = "".join(_parts(task, story, " ".join(story.facts)))
    return count_tokens(tokenizer, prompt) + _NEW_TOKENS <= length


def _make_up(
    tokenizer: PreTrainedTokenizerBase, task: str, length: int, chance: random.Random
) -> Story:
    """Returns the first of many stories that fits; else the shortest, which is refused later."""
    told = list[Story]()
    while len(told) < _TRIES:
        told.append(tell_story(task, chance))
        if _fits(tokenizer, task, length, told[-1]):
            return told[-1]
    return min(told, key=lambda story: len(story.facts))


def _draw_stories(
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    length: int,
    samples: int,
    seed: int,
    facts: str | Path,
) -> list[Story]:
    """Returns stories of bAbI's files, drawn by the seed out of those that fit."""
    read = list(read_stories(facts, task))
    # The order does not depend on the length, so that lengths share the questions that fit both.
    random.Random(f"{seed} {task}").shuffle(read)
    found = list[Story]()
    for story in read:
        if len(found) == samples:
            break
        if _fits(tokenizer, task, length, story):
            found.append(story)
    if len(found) < samples:
        raise UsageError(
            f"'{facts}' holds {counted(len(found), 'question')} whose facts fit {task} at"
            f" {counted(length, 'token')}: ask for at most that many samples, or a greater length."
        )
    return found


def _make_sample(name: str, task: str, length: int, story: Story, parts: PromptParts) -> Sample:
    return Sample(
        id=name,
        suite="babilong",
        task=task,
        before=parts.before,
        context=parts.context,
        after=parts.after,
        question=story.question,
        answers=(story.answer,),
        metric="babilong",
        max_new_tokens=_NEW_TOKENS,
        length=length,
        document=name,
        tags={"facts": len(story.facts)},
    )


def _parts(task: str, story: Story, context: str) -> PromptParts:
    return PromptParts(
        "\n\n".join((*PROMPTS[task], "<context>\n")),
        context,
        f"\n</context>\n\nQuestion: {story.question}",
    )


def _fill(
    tokenizer: PreTrainedTokenizerBase,
    prose: Prose,
    task: str,
    length: int,
    story: Story,
    chance: random.Random,
) -> PromptParts:
    """Returns the longest prompt, with the story's facts at random gaps of the prose."""
    what = f"{task} at {counted(length, 'token')}"
    # No sentence of the haystack may be long enough.
    if not prose.sentences:
        raise prose.too_short(what)
    # Anywhere from where the rest of the prose is still long enough.
    last = bisect_right(prose.sentences, prose.tokens[-1] - length, key=prose.tokens.__getitem__)
    start = prose.sentences[chance.randrange(max(1, last))]
    # Sorted, so that facts keep their order; as shares, so that the count of gaps may change.
    places = sorted(chance.random() for _ in story.facts)

    def assemble(count: int) -> PromptParts:
        gaps = [start]
        if count:
            gaps += prose.gaps(start + 1, start + count)
        facts = []
        for place, fact in zip(places, story.facts, strict=True):
            facts.append((gaps[int(place * len(gaps))], fact))
        return _parts(task, story, prose.with_facts(start, start + count, facts))

    def cost(count: int) -> int:
        return prose.tokens[start + count] - prose.tokens[start]

    most = len(prose.words) - 1 - start
    count = fit(tokenizer, assemble, cost, length - _NEW_TOKENS, least=0, most=most, what=what)
    # Where all words fit, the length is not reached.
    if count == most:
        raise prose.too_short(what)
    return assemble(count)
