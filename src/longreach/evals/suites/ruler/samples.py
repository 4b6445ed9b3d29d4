"""RULER: thirteen tasks at any length, as upstream makes them, cut to the model's tokenizer.

Paper: Hsieh et al. 2024, RULER (arXiv 2404.06654). Templates, kinds of needles, depths,
frequencies, worked examples, tokens of the answer and scores are those of NVIDIA/RULER
(Apache-2.0). Three things differ: the count of haystack is found for each sample, not once for all
of them, so that none is far below the length; a haystack or question file that is too short is
refused where upstream repeats it, only its repeated noise being repeated; and a sample depends on
(seed, task, length, index) alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from longreach.errors import UsageError
from longreach.evals.run.sample import Sample
from longreach.evals.suites.draw import Drawn, check
from longreach.evals.suites.haystack import Prose, read_prose
from longreach.evals.suites.ruler.documents import documents
from longreach.evals.suites.ruler.lists import common_words, frequent_words, variable_tracking
from longreach.evals.suites.ruler.needles import Needles, needles
from longreach.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NEEDLES = {
    "niah_single_1": Needles("noise"),
    "niah_single_2": Needles("essay"),
    "niah_single_3": Needles("essay", value="uuid"),
    "niah_multikey_1": Needles("essay", keys=4),
    "niah_multikey_2": Needles("needle"),
    "niah_multikey_3": Needles("needle", key="uuid", value="uuid"),
    "niah_multivalue": Needles("essay", values=4),
    "niah_multiquery": Needles("essay", keys=4, queries=4),
}
_NEW_TOKENS = dict.fromkeys(_NEEDLES, 128) | {
    "vt": 30,
    "cwe": 120,
    "fwe": 50,
    "qa_1": 32,
    "qa_2": 32,
}
QUESTIONS = {
    "qa_1": "SQuAD's JSON, such as dev-v2.0.json",
    "qa_2": "HotpotQA's JSON, such as hotpot_dev_distractor_v1.json",
}
TASKS = tuple(_NEW_TOKENS)


def generate(
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    *,
    samples: int = 100,
    seed: int = 42,
    tasks: Sequence[str] = TASKS,
    haystack: str | Path | None = None,
    qa: Mapping[str, str | Path] | None = None,
) -> Iterator[Sample]:
    """Makes the samples of RULER's tasks, one task after the other.

    Args:
        tokenizer: Of the model that is asked; its tokens are counted.
        length: Tokens of a prompt and its answer together, at most and nearly.
        samples: Of each task.
        seed: Of everything that is drawn.
        tasks: Names out of `TASKS`.
        haystack: Prose for the needle tasks that want it, see `haystack.read_prose`.
        qa: The files of the tasks in `QUESTIONS`, by task; only those that are run need theirs.

    Raises:
        UsageError: A task is unknown or lacks its file, a file is malformed, or a haystack is
            shorter than the length.
        ContextError: The length is too small for a task.
        MissingDependency: The words of the needles and lists are not installed.
    """
    check(tasks, TASKS, "RULER", samples)
    files = qa or {}
    prose = None
    # Reading prose takes seconds, which other tasks need not wait for.
    if any(map(_takes_prose, tasks)):
        prose = read_prose(haystack, tokenizer, length)
    # Before the first sample, so that a task that cannot be asked is refused at once.
    draws = {}
    for task in tasks:
        draws[task] = _prepare(task, tokenizer, length, samples, prose, files.get(task))

    def walk() -> Iterator[Sample]:
        for task, draw in draws.items():
            for index in range(samples):
                drawn = draw(f"{seed} {task} {length} {index}", index)
                yield _make_sample(task, length, index, drawn)

    return walk()


def _takes_prose(task: str) -> bool:
    return task in _NEEDLES and _NEEDLES[task].haystack == "essay"


def _prepare(
    task: str,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    samples: int,
    prose: Prose | None,
    questions: str | Path | None,
) -> Callable[[str, int], Drawn]:
    """Returns the function that draws the n-th prompt of a task from a stream of chance."""
    # The answer takes its part of the length.
    budget = length - _NEW_TOKENS[task]
    what = f"{task} at {counted(length, 'token')}"
    if task in QUESTIONS:
        if questions is None:
            raise UsageError(
                f"{task} needs a file of questions: give {QUESTIONS[task]}, or run the other tasks"
                " only."
            )
        return documents(questions, tokenizer, budget, what, samples)
    if task in _NEEDLES:
        draw = needles(_NEEDLES[task], tokenizer, budget, what, prose)
    elif task == "cwe":
        draw = common_words(tokenizer, budget, what, length)
    elif task == "vt":
        draw = variable_tracking(tokenizer, budget, what)
    else:
        draw = frequent_words(tokenizer, budget, what)
    # Only the questions of a file are numbered; all other tasks need the stream alone.
    return lambda stream, index: draw(stream)


def _make_sample(task: str, length: int, index: int, drawn: Drawn) -> Sample:
    name = f"{task}-{length}-{index}"
    parts = drawn.parts
    return Sample(
        id=name,
        suite="ruler",
        task=task,
        before=parts.before,
        context=parts.context,
        after=parts.after,
        question=drawn.question,
        answers=drawn.answers,
        # A question has several right answers, of which one is enough; elsewhere all facts count.
        metric="part" if task in QUESTIONS else "all",
        max_new_tokens=_NEW_TOKENS[task],
        length=length,
        document=name,
    )
