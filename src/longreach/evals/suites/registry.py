"""The samples of each suite, and the readers of whole texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from longreach.errors import ContextError, UsageError
from longreach.evals.peers.kvpress import KvpressReader
from longreach.evals.run.sample import Sample
from longreach.evals.suites import babilong, niah, ruler
from longreach.evals.suites.choice import BABI, BABILONG, DOCQA, KVPRESS, NIAH, Choice
from longreach.evals.suites.docqa import LONGBENCH, PRESETS, preset_samples
from longreach.evals.systems.models import ModelReader, TooLong, attending
from longreach.models.decoder import window_of


def name_of(target: str) -> str:
    """How a run calls a model or a corpus: a path by its last part only."""
    return Path(target).name if Path(target).exists() else target


def check_window(choice: Choice, model: Any, *, beyond: bool) -> None:
    """Raises ContextError where a length is beyond the model's window, unless it may be."""
    window, longest = window_of(model), max(choice.lengths)
    if window is not None and longest > window and not beyond and choice.suite != DOCQA:
        raise ContextError(
            f"A length of {longest:,} is beyond the model's window of {window:,}: ask for smaller"
            " --lengths, or read on with --beyond-window."
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
        return [
            sample for task, given in _presets(choice) for sample in _documents(choice, task, given)
        ]
    if choice.suite == NIAH:
        options: dict[str, Any] = {"tasks": choice.tasks or niah.TASKS[:1], "depths": choice.depths}
        count = choice.samples or 1
        made = niah.generate(
            tokenizer,
            choice.lengths,
            samples=count,
            seed=choice.seed,
            haystack=choice.haystack,
            **options,
        )
        return list(made)
    count = choice.samples or 20
    common: dict[str, Any] = {"samples": count, "seed": choice.seed, "haystack": choice.haystack}
    if choice.suite == BABILONG:
        common |= {"tasks": choice.tasks or babilong.TASKS, "facts": choice.data.get(BABI)}
        return [
            sample for n in choice.lengths for sample in babilong.generate(tokenizer, n, **common)
        ]
    left_out = (
        [task for task in ruler.QUESTIONS if task not in choice.data] if not choice.tasks else []
    )
    for task in left_out:
        say(
            f"{task} is left out: give --data {task}=FILE, {ruler.QUESTIONS[task]}, to ask it as"
            " well."
        )
    common |= {
        "tasks": choice.tasks or [t for t in ruler.TASKS if t not in left_out],
        "qa": choice.data,
    }
    return [sample for n in choice.lengths for sample in ruler.generate(tokenizer, n, **common)]


def _presets(choice: Choice) -> list[tuple[str, str]]:
    """The presets that are asked, with their data."""
    prefix = f"{LONGBENCH}-"
    tasks = choice.tasks or tuple(
        task
        for task in PRESETS
        if task in choice.data or (task.startswith(prefix) and LONGBENCH in choice.data)
    )
    found = []
    for task in tasks:
        given = choice.data.get(task) or (
            choice.data.get(LONGBENCH) if task.startswith(prefix) else None
        )
        if given is None:
            name = LONGBENCH if task.startswith(prefix) else task
            raise UsageError(f"The task {task} needs its data: give --data {name}=PATH.")
        found.append((task, given))
    if not found:
        raise UsageError(
            "Questions about documents come from data or from a file: give --data PRESET=PATH, or"
            " --questions FILE with --documents PATH."
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


def whole_readers(
    names: Sequence[str], model: Any, tokenizer: Any, too_long: TooLong
) -> list[ModelReader]:
    """The readers of whole texts by their names; see `readers.attending` and
    `kvpress.KvpressReader`."""
    return [
        (
            KvpressReader(name, model, tokenizer, too_long=too_long)
            if name.split(":")[0] == KVPRESS
            else ModelReader(*attending(name, model), tokenizer, too_long=too_long)
        )
        for name in names
    ]
