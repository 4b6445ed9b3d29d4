"""The suite `niah`: a needle at every depth of prose of every length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from longreach.evals.run.sample import Sample
from longreach.evals.suites.lengths import HaystackSuite
from longreach.evals.suites.niah.samples import TASKS, generate
from longreach.evals.suites.option import at_least, option, split_names

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from longreach.evals.report.base import SuiteReport


@dataclass(frozen=True)
class NeedleSuite(HaystackSuite):
    """Needle in a haystack; see `suites.niah.samples`.

    Attributes:
        tasks: Those that are asked; () asks the one that no model knows.
        depths: How many, evenly from the beginning to the end of the prose.
    """

    name: ClassVar[str] = "niah"
    title: ClassVar[str] = "Needle in a haystack"
    summary: ClassVar[str] = "Ask for one sentence at every depth of prose of every length."
    example: ClassVar[str] = "niah smollm2 --lengths 2048,4096 --depths 5 --out runs/niah"
    known_tasks: ClassVar[tuple[str, ...]] = TASKS

    tasks: tuple[str, ...] = option(
        (),
        "Tasks: niah, niah_original.",
        shown="niah",
        parse=split_names,
    )
    samples: int | None = option(
        None,
        "Samples of each task, length and depth.",
        value_type=int,
        shown="1",
        check=at_least(1),
    )
    depths: int = option(11, "Depths of the needle.", value_type=int, check=at_least(1))

    def make_samples(
        self, tokenizer: PreTrainedTokenizerBase, say: Callable[[str], None]
    ) -> list[Sample]:
        """Returns the samples of all lengths and depths; see `Suite`."""
        made = generate(
            tokenizer,
            self.lengths,
            depths=self.depths,
            samples=self.samples or 1,
            seed=self.seed,
            # Models have read the original needle since, so it is asked only by name.
            tasks=self.tasks or TASKS[:1],
            haystack=self.haystack,
        )
        return list(made)

    @classmethod
    def report(cls) -> SuiteReport:
        """Returns what makes a report: heat maps by depth beside the usual tables."""
        from longreach.evals.report.depths import DepthReport

        return DepthReport(cls.title, cls.metrics())
