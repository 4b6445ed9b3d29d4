"""What an evaluation asks, and in which ways it can be read: names, and what is refused. Imports no
torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longreach.errors import UsageError
from longreach.evals.suites import babilong, niah, ruler
from longreach.evals.suites.docqa import LONGBENCH, PRESETS

FULL, HYBRID, SINK_WINDOW = "full", "hybrid", "sink-window"
MODELS = (FULL, HYBRID, SINK_WINDOW)
KVPRESS = "kvpress"
NONE, TRUNCATED, BM25, MEAN_POOL, COMPRESSED, MIXED = (
    "none",
    "truncated",
    "bm25",
    "mean-pool",
    "compressed",
    "mixed",
)
WAYS = (NONE, TRUNCATED, BM25, MEAN_POOL, COMPRESSED, MIXED)
ADAPTED = "+adapter"
NIAH, RULER, BABILONG, DOCQA, PERPLEXITY = "niah", "ruler", "babilong", "docqa", "perplexity"
SUITES = (NIAH, RULER, BABILONG, DOCQA, PERPLEXITY)
_TASKS: dict[str, tuple[str, ...]] = {
    NIAH: niah.TASKS,
    RULER: ruler.TASKS,
    BABILONG: babilong.TASKS,
    DOCQA: tuple(PRESETS),
    PERPLEXITY: (),
}
BABI = "babi"


@dataclass(frozen=True)
class Choice:
    """What is asked.

    Attributes:
        suite: A name in `SUITES`.
        tasks: Of the suite; empty for all that can be asked with the data given (of NIAH: the one
            that no model knows).
        lengths: Tokens of a prompt and its answer; not of docqa.
        samples: Of each task and length, of NIAH of each depth too; None for 1 (NIAH), 20 (RULER,
            BABILong), all (docqa, perplexity).
        seed: Of all that is drawn.
        depths: Of NIAH.
        haystack: Prose; None for the book that comes with the package.
        data: Paths or Hub ids by name: `qa_1` and `qa_2` of RULER, `babi` of BABILong, presets of
            docqa or `longbench`.
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
            raise UsageError(
                "The lengths are numbers of tokens, each once: give some such as 2048,4096."
            )
        if self.suite == PERPLEXITY and len(self.lengths) > 1:
            raise UsageError(
                "Perplexity is told by position up to one length: give the greatest of --lengths"
                " alone."
            )
        if self.suite in (NIAH, RULER, BABILONG, DOCQA):
            named = {
                NIAH: (),
                RULER: tuple(ruler.QUESTIONS),
                BABILONG: (BABI,),
                DOCQA: (*PRESETS, LONGBENCH),
            }
            for name in self.data:
                if name not in named[self.suite]:
                    known = ", ".join(named[self.suite]) or "none"
                    raise UsageError(f"There are no data '{name}' of {self.suite}: use {known}.")

    def settings(self) -> dict[str, Any]:
        """What decides the samples, as JSON; files by their names only, since their contents are in
        the samples."""
        found: dict[str, Any] = {
            "tasks": list(self.tasks),
            "samples": self.samples,
            "data": sorted(self.data),
        }
        if self.suite == DOCQA:
            return found | {"split": self.split, "max_new_tokens": self.max_new_tokens}
        found["lengths"] = list(self.lengths)
        if self.suite in (NIAH, RULER, BABILONG):
            found["haystack"] = Path(self.haystack).name if self.haystack else None
        return found | ({"depths": self.depths} if self.suite == NIAH else {})


def whole(name: str) -> bool:
    """Whether a reader reads whole texts."""
    return name in MODELS or name.split(":")[0] == KVPRESS


def check_readers(names: Sequence[str], suite: str) -> None:
    """Raises UsageError where a suite is not read by one of these."""
    ways = (
        (*WAYS, *(f"{way}{ADAPTED}" for way in ("none", "truncated", "bm25")))
        if suite == DOCQA
        else ()
    )
    for name in names:
        outside = whole(name) and name not in MODELS
        if name not in (*MODELS, *ways) and not (outside and suite != PERPLEXITY):
            raise UsageError(
                f"There is no reader '{name}' of {suite}: use {', '.join((*MODELS, *ways))}."
            )


def default_readers(suite: str, *, mean_pool: bool, adapter: bool) -> tuple[str, ...]:
    """Who reads a suite unless the user says otherwise.

    Args:
        suite: Its name.
        mean_pool: Whether the compressor is mean pooling itself, which then needs no reader of its
            own.
        adapter: Whether there is an adapter, which may help text as well.
    """
    if suite != DOCQA:
        return MODELS
    ways = tuple(way for way in WAYS if not (mean_pool and way == "mean-pool"))
    return (FULL, *ways, *((f"bm25{ADAPTED}",) if adapter else ()))
