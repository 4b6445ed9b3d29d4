"""The suite `babilong`: bAbI's facts in prose of any length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from longreach.evals.run.sample import Sample
from longreach.evals.suites.babilong.samples import TASKS, generate
from longreach.evals.suites.lengths import HaystackSuite
from longreach.evals.suites.option import at_least, check_data_names, option, read_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BABI = "babi"
_DEFAULT_SAMPLES = 20


@dataclass(frozen=True)
class BabilongSuite(HaystackSuite):
    """BABILong; see `suites.babilong.samples`.

    Attributes:
        data: The folder of bAbI's files under "babi"; stories are made up without it.
    """

    name: ClassVar[str] = "babilong"
    title: ClassVar[str] = "BABILong-style"
    summary: ClassVar[str] = "Ask about facts that are scattered over prose."
    example: ClassVar[str] = "babilong smollm2 --lengths 4096 --tasks qa1,qa2 --out runs/babilong"
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
        "The folder of bAbI's files: babi=FOLDER.",
        shown="stories of the same kinds, made up",
        metavar="NAME=PATH",
        repeated=True,
        parse=read_pairs,
        check=check_data_names((_BABI,), "babilong"),
    )

    def make_samples(
        self, tokenizer: PreTrainedTokenizerBase, say: Callable[[str], None]
    ) -> list[Sample]:
        """Returns the samples, length by length; see `Suite`."""
        found = list[Sample]()
        for length in self.lengths:
            found += generate(
                tokenizer,
                length,
                samples=self.samples or _DEFAULT_SAMPLES,
                seed=self.seed,
                tasks=self.tasks or TASKS,
                haystack=self.haystack,
                facts=self.data.get(_BABI),
            )
        return found
