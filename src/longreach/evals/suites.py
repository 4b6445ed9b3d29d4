"""The suites by name: their tasks, their samples, and who reads them unless told otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longreach.errors import ContextError, UsageError
from longreach.evals import babilong, niah, ruler
from longreach.evals.docqa import LONGBENCH, PRESETS, preset_samples
from longreach.evals.documents import ADAPTED, WAYS
from longreach.evals.kvpress import PREFIX as KVPRESS
from longreach.evals.kvpress import KvpressReader
from longreach.evals.readers import FULL, HYBRID, SINK_WINDOW, ModelReader, TooLong, attending
from longreach.evals.sample import Sample
from longreach.models.decoder import window_of

NIAH, RULER, BABILONG, DOCQA, PERPLEXITY = "niah", "ruler", "babilong", "docqa", "perplexity"
SUITES = (NIAH, RULER, BABILONG, DOCQA, PERPLEXITY)
MODELS = (FULL, HYBRID, SINK_WINDOW)
_TASKS: dict[str, tuple[str, ...]] = {
    NIAH: niah.TASKS,
    RULER: ruler.TASKS,
    BABILONG: babilong.TASKS,
    DOCQA: tuple(PRESETS),
    PERPLEXITY: (),
}
_BABI = "babi"


@dataclass(frozen=True)
class Choice:
    """What is asked.

    Attributes:
        suite: A name in `SUITES`.
        tasks: Of the suite; empty for all that can be asked with the data given (of NIAH: the one that no model knows).
        lengths: Tokens of a prompt and its answer; not of docqa.
        samples: Of each task and length, of NIAH of each depth too; None for 1 (NIAH), 20 (RULER, BABILong), all
            (docqa, perplexity).
        seed: Of all that is drawn.
        depths: Of NIAH.
        haystack: Prose; None for the book that comes with the package.
        data: Paths or Hub ids by name: `qa_1` and `qa_2` of RULER, `babi` of BABILong, presets of docqa or `longbench`.
        split: Of docqa's data.
        max_new_tokens: Of docqa's answers, instead of the preset's.
    """

    suite: str
    tasks: tuple[str, ...] = ()
    lengths: tuple[int, ...] = (4096,)
    samples: int | None = None
    seed: int = 42
    depths: int = 11
    haystack: str | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.suite not in SUITES:
            raise UsageError(f"There is no suite '{self.suite}': use one of {', '.join(SUITES)}.")
        for task in self.tasks:
            if task not in _TASKS[self.suite]:
                known = ", ".join(_TASKS[self.suite]) or "none: it has no tasks"
                raise UsageError(f"There is no task '{task}' of {self.suite}: use {known}.")
        if self.samples is not None and self.samples < 1:
            raise UsageError(f"samples is {self.samples}; give at least 1.")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise UsageError(f"max_new_tokens is {self.max_new_tokens}; give at least 1.")
        if not self.lengths or min(self.lengths) < 1 or len({*self.lengths}) < len(self.lengths):
            raise UsageError("The lengths are numbers of tokens, each once: give some such as 2048,4096.")
        if self.suite == PERPLEXITY and len(self.lengths) > 1:
            raise UsageError("Perplexity is told by position up to one length: give the greatest of --lengths alone.")
        if self.suite in (NIAH, RULER, BABILONG, DOCQA):
            named = {NIAH: (), RULER: tuple(ruler.QUESTIONS), BABILONG: (_BABI,), DOCQA: (*PRESETS, LONGBENCH)}
            for name in self.data:
                if name not in named[self.suite]:
                    known = ", ".join(named[self.suite]) or "none"
                    raise UsageError(f"There are no data '{name}' of {self.suite}: use {known}.")

    def settings(self) -> dict[str, Any]:
        """What decides the samples, as JSON; files by their names only, since their contents are in the samples."""
        found: dict[str, Any] = {"tasks": list(self.tasks), "samples": self.samples, "data": sorted(self.data)}
        if self.suite == DOCQA:
            return found | {"split": self.split, "max_new_tokens": self.max_new_tokens}
        found["lengths"] = list(self.lengths)
        if self.suite in (NIAH, RULER, BABILONG):
            found["haystack"] = Path(self.haystack).name if self.haystack else None
        return found | ({"depths": self.depths} if self.suite == NIAH else {})


def name_of(target: str) -> str:
    """How a run calls a model or a corpus: a path by its last part only."""
    return Path(target).name if Path(target).exists() else target


def check_window(choice: Choice, model: Any, *, beyond: bool) -> None:
    """Raises ContextError where a length is beyond the model's window, unless it may be."""
    window, longest = window_of(model), max(choice.lengths)
    if window is not None and longest > window and not beyond and choice.suite != DOCQA:
        raise ContextError(
            f"A length of {longest:,} is beyond the model's window of {window:,}: ask for smaller --lengths, or read "
            "on with --beyond-window."
        )


def samples_of(choice: Choice, tokenizer: Any, say: Callable[[str], None]) -> list[Sample]:
    """The samples of NIAH, RULER, BABILong or of docqa's presets, in order.

    Args:
        choice: What is asked.
        tokenizer: Of the model that is asked.
        say: Is told which tasks are left out for want of data.

    Raises:
        UsageError: No task can be asked; and see the suites.
    """
    if choice.suite == DOCQA:
        return [sample for task, given in _presets(choice) for sample in _documents(choice, task, given)]
    if choice.suite == NIAH:
        options: dict[str, Any] = {"tasks": choice.tasks or niah.TASKS[:1], "depths": choice.depths}
        count = choice.samples or 1
        made = niah.generate(
            tokenizer, choice.lengths, samples=count, seed=choice.seed, haystack=choice.haystack, **options
        )
        return list(made)
    count = choice.samples or 20
    common: dict[str, Any] = {"samples": count, "seed": choice.seed, "haystack": choice.haystack}
    if choice.suite == BABILONG:
        common |= {"tasks": choice.tasks or babilong.TASKS, "facts": choice.data.get(_BABI)}
        return [sample for n in choice.lengths for sample in babilong.generate(tokenizer, n, **common)]
    left_out = [task for task in ruler.QUESTIONS if task not in choice.data] if not choice.tasks else []
    for task in left_out:
        say(f"{task} is left out: give --data {task}=FILE, {ruler.QUESTIONS[task]}, to ask it as well.")
    common |= {"tasks": choice.tasks or [t for t in ruler.TASKS if t not in left_out], "qa": choice.data}
    return [sample for n in choice.lengths for sample in ruler.generate(tokenizer, n, **common)]


def _presets(choice: Choice) -> list[tuple[str, str]]:
    """The presets that are asked, with their data."""
    prefix = f"{LONGBENCH}-"
    tasks = choice.tasks or tuple(
        task for task in PRESETS if task in choice.data or (task.startswith(prefix) and LONGBENCH in choice.data)
    )
    found = []
    for task in tasks:
        given = choice.data.get(task) or (choice.data.get(LONGBENCH) if task.startswith(prefix) else None)
        if given is None:
            name = LONGBENCH if task.startswith(prefix) else task
            raise UsageError(f"The task {task} needs its data: give --data {name}=PATH.")
        found.append((task, given))
    if not found:
        raise UsageError(
            "Questions about documents come from data or from a file: give --data PRESET=PATH, or --questions FILE "
            "with --documents PATH."
        )
    return found


def _documents(choice: Choice, task: str, given: str) -> list[Sample]:
    return preset_samples(
        task,
        given,
        split=choice.split,
        samples=choice.samples,
        seed=choice.seed,
        max_new_tokens=choice.max_new_tokens,
    )


def whole(name: str) -> bool:
    """Whether a reader reads whole texts."""
    return name in MODELS or name.split(":")[0] == KVPRESS


def whole_readers(names: Sequence[str], model: Any, tokenizer: Any, too_long: TooLong) -> list[ModelReader]:
    """The readers of whole texts by their names; see `readers.attending` and `kvpress.KvpressReader`."""
    return [
        KvpressReader(name, model, tokenizer, too_long=too_long)
        if name.split(":")[0] == KVPRESS
        else ModelReader(*attending(name, model), tokenizer, too_long=too_long)
        for name in names
    ]


def check_readers(names: Sequence[str], suite: str) -> None:
    """Raises UsageError where a suite is not read by one of these."""
    ways = (*WAYS, *(f"{way}{ADAPTED}" for way in ("none", "truncated", "bm25"))) if suite == DOCQA else ()
    for name in names:
        outside = whole(name) and name not in MODELS
        if name not in (*MODELS, *ways) and not (outside and suite != PERPLEXITY):
            raise UsageError(f"There is no reader '{name}' of {suite}: use {', '.join((*MODELS, *ways))}.")


def default_readers(suite: str, *, mean_pool: bool, adapter: bool) -> tuple[str, ...]:
    """Who reads a suite unless the user says otherwise.

    Args:
        suite: Its name.
        mean_pool: Whether the compressor is mean pooling itself, which then needs no reader of its own.
        adapter: Whether there is an adapter, which may help text as well.
    """
    if suite != DOCQA:
        return MODELS
    ways = tuple(way for way in WAYS if not (mean_pool and way == "mean-pool"))
    return (FULL, *ways, *((f"bm25{ADAPTED}",) if adapter else ()))
