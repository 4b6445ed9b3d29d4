"""BABILong: bAbI's facts hidden in prose, tasks qa1 to qa5.

Paper: Kuratov et al. 2024, BABILong (arXiv 2406.10149). Facts keep their order and stand at random
gaps between sentences of at least ten tokens; prompts, worked examples and the score are those of
booydar/babilong (Apache-2.0). Two things differ: the length is that of the whole prompt with its
answer, counted, where upstream sets 300 tokens aside for what is not context; and the prose is any
text, where upstream has the books of PG19: call figures "BABILong-style" where it is another. A
sample depends on (seed, task, length, index) alone.
"""

import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from longreach.errors import UsageError
from longreach.evals.run.sample import Sample
from longreach.evals.suites.babilong.babi import Story, read_stories, tell_story
from longreach.evals.suites.babilong.prompts import PROMPTS
from longreach.evals.suites.draw import Parts, check, count_tokens, fit
from longreach.evals.suites.haystack import Prose, read_prose
from longreach.wording import counted

TASKS = tuple(PROMPTS)
_NEW_TOKENS = 20
_SENTENCE_TOKENS = 10


def generate(
    tokenizer: Any,
    length: int,
    *,
    samples: int = 100,
    seed: int = 42,
    tasks: Sequence[str] = TASKS,
    haystack: str | Path | None = None,
    facts: str | Path | None = None,
) -> Iterator[Sample]:
    """Makes the samples of the tasks, one task after the other; each says how many facts it has
    among its tags.

    Args:
        tokenizer: of the model that is asked; its tokens are counted.
        length: tokens of a prompt and its answer together, at most and nearly.
        samples: of each task.
        seed: of the stories, where their facts stand, and where the prose begins.
        tasks: names out of `TASKS`.
        haystack: the prose, see `evals.haystack.read_prose`.
        facts: the folder of bAbI's files, out of whose test questions are drawn those whose facts
            are not longer than the length by themselves; None makes up stories of the same kinds
            (see `evals.babi`).

    Raises:
        UsageError: a task is unknown, bAbI's files are missing, malformed or hold too few questions
            that fit, or the haystack is shorter than the length.
        ContextError: the length is too small.
    """
    check(tasks, TASKS, "BABILong", samples)
    prose = read_prose(haystack, tokenizer, length, sentence_tokens=_SENTENCE_TOKENS)
    stories = {task: _stories(tokenizer, task, length, samples, seed, facts) for task in tasks}
    return (
        _sample(tokenizer, prose, task, length, index, seed, story)
        for task in tasks
        for index, story in enumerate(stories[task])
    )


def _stories(
    tokenizer: Any, task: str, length: int, samples: int, seed: int, facts: str | Path | None
) -> Iterable[Story]:
    def fits(story: Story) -> bool:
        return (
            count_tokens(tokenizer, "".join(_parts(task, story, " ".join(story.facts))))
            + _NEW_TOKENS
            <= length
        )

    if facts is None:
        return (_made_up(f"{seed} {task} {length} {index}", task, fits) for index in range(samples))
    read = list(read_stories(facts, task))
    random.Random(f"{seed} {task}").shuffle(read)
    found = list(islice(filter(fits, read), samples))
    if len(found) < samples:
        raise UsageError(
            f"'{facts}' holds {counted(len(found), 'question')} whose facts fit {task} at"
            f" {counted(length, 'token')}: ask for so many samples at most, or for a greater"
            " length."
        )
    return found


def _made_up(stream: str, task: str, fits: Callable[[Story], bool]) -> Story:
    """The first of many stories that fits, or the shortest, of which it is then said that it does
    not."""
    chance, told = random.Random(stream), list[Story]()
    while len(told) < 20:
        told.append(tell_story(task, chance))
        if fits(told[-1]):
            return told[-1]
    return min(told, key=lambda story: len(story.facts))


def _sample(
    tokenizer: Any, prose: Prose, task: str, length: int, index: int, seed: int, story: Story
) -> Sample:
    name, chance = (
        f"{task}-{length}-{index}",
        random.Random(f"{seed} {task} {length} {index} places"),
    )
    return Sample(
        id=name,
        suite="babilong",
        task=task,
        **_drawn(tokenizer, prose, task, length, story, chance)._asdict(),
        question=story.question,
        answers=(story.answer,),
        metric="babilong",
        max_new_tokens=_NEW_TOKENS,
        length=length,
        document=name,
        tags={"facts": len(story.facts)},
    )


def _parts(task: str, story: Story, context: str) -> Parts:
    return Parts(
        "\n\n".join((*PROMPTS[task], "<context>\n")),
        context,
        f"\n</context>\n\nQuestion: {story.question}",
    )


def _drawn(
    tokenizer: Any, prose: Prose, task: str, length: int, story: Story, chance: random.Random
) -> Parts:
    what = f"{task} at {counted(length, 'token')}"
    words = len(prose.words) - 1
    if not prose.sentences:  # none is long enough
        raise prose.too_short(what)
    # Anywhere from where the rest of the prose is still long enough.
    last = bisect_right(prose.sentences, prose.tokens[-1] - length, key=prose.tokens.__getitem__)
    start = prose.sentences[chance.randrange(max(1, last))]
    places = sorted(chance.random() for _ in story.facts)

    def assemble(count: int) -> Parts:
        gaps = [start, *prose.gaps(start + 1, start + count)] if count else [start]
        facts = [
            (gaps[int(place * len(gaps))], fact)
            for place, fact in zip(places, story.facts, strict=True)
        ]
        return _parts(task, story, prose.with_facts(start, start + count, facts))

    def cost(count: int) -> int:
        return prose.tokens[start + count] - prose.tokens[start]

    most = words - start
    count = fit(tokenizer, assemble, cost, length - _NEW_TOKENS, least=0, most=most, what=what)
    if count == most:
        raise prose.too_short(what)
    return assemble(count)
