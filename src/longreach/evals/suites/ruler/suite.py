"""The suite `ruler`: RULER's thirteen tasks at any length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from longreach.evals.run.sample import Sample
from longreach.evals.suites.lengths import HaystackSuite
from longreach.evals.suites.option import at_least, check_data_names, option, read_pairs
from longreach.evals.suites.ruler.samples import QUESTIONS, TASKS, generate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DEFAULT_SAMPLES = 20


@dataclass(frozen=True)
class RulerSuite(HaystackSuite):
    """RULER; see `suites.ruler.samples`.

    Attributes:
        data: Files of questions by the names of the tasks that ask them.
    """

    name: ClassVar[str] = "ruler"
    title: ClassVar[str] = "RULER"
    summary: ClassVar[str] = "Ask RULER's tasks: needles, variables, word lists and questions."
    example: ClassVar[str] = (
        "ruler smollm2 --lengths 2048,4096 --tasks niah_single_1,vt --samples 10 --out runs/ruler"
    )
    known_tasks: ClassVar[tuple[str, ...]] = TASKS

    samples: int | None = option(
        None,
        "Samples of each task and length.",
        value_type=int,
        shown=str(_DEFAULT_SAMPLES),
        check=at_least(1),
    )
    data: dict[str, str] = option(
        {},
        "Files of questions: qa_1=FILE of SQuAD, qa_2=FILE of HotpotQA. May be repeated.",
        metavar="NAME=PATH",
        repeated=True,
        parse=read_pairs,
        check=check_data_names(tuple(QUESTIONS), "ruler"),
    )

    def make_samples(
        self, tokenizer: PreTrainedTokenizerBase, say: Callable[[str], None]
    ) -> list[Sample]:
        """Returns the samples, length by length; tasks without their file are omitted."""
        tasks = self.tasks or self._tasks_with_data(say)
        found = list[Sample]()
        for length in self.lengths:
            found += generate(
                tokenizer,
                length,
                samples=self.samples or _DEFAULT_SAMPLES,
                seed=self.seed,
                tasks=tasks,
                haystack=self.haystack,
                qa=self.data,
            )
        return found

    def _tasks_with_data(self, say: Callable[[str], None]) -> tuple[str, ...]:
        found = []
        for task in TASKS:
            if task in QUESTIONS and task not in self.data:
                say(
                    f"{task} is omitted: give --data {task}=FILE, {QUESTIONS[task]}, to ask it as"
                    " well."
                )
            else:
                found.append(task)
        return tuple(found)
