"""The suite `perplexity`: how well a model predicts held-out texts, by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from longreach.errors import UsageError
from longreach.evals.run.rows import JsonObject
from longreach.evals.run.sample import Sample
from longreach.evals.suites.lengths import LengthSuite
from longreach.evals.suites.option import at_least, check_lengths, option, read_lengths

if TYPE_CHECKING:
    from longreach.evals.report.base import SuiteReport
    from longreach.evals.run.subject import RunOptions, Subject
    from longreach.evals.systems.models import TooLong


@dataclass(frozen=True)
class PerplexitySuite(LengthSuite):
    """Perplexity by position; see `suites.perplexity.measure`.

    It has no samples: whole texts are read, and nothing is answered.

    Attributes:
        data: Held-out texts: files, folders and Hub data sets.
    """

    name: ClassVar[str] = "perplexity"
    title: ClassVar[str] = "Perplexity"
    summary: ClassVar[str] = "Measure perplexity on held-out texts, by position."
    example: ClassVar[str] = "perplexity smollm2 --lengths 8192 --data held-out.jsonl --out runs/p"
    takes_peers: ClassVar[bool] = False  # they answer, and say no logits

    lengths: tuple[int, ...] = option(
        (4096,),
        "Tokens of each text; shorter texts are omitted.",
        shown="4096",
        check=check_lengths,
        parse=read_lengths,
    )
    samples: int | None = option(
        None,
        "Texts that are read, the first ones.",
        value_type=int,
        shown="all",
        check=at_least(1),
    )
    data: tuple[str, ...] = option(
        (),
        "Held-out texts, as `extend` reads them; may be repeated.",
        metavar="PATH",
        repeated=True,
        record=None,  # their tokens are in the digest of a run
    )

    def check(self) -> None:
        """Raises UsageError where there are no texts, or more lengths than one."""
        # Buckets of a long text hold all shorter lengths.
        if len(self.lengths) > 1:
            raise UsageError(
                "Perplexity is told by position up to one length: give the greatest of --lengths"
                " alone."
            )
        # Texts that a model may have learned would tell nothing.
        if not self.data:
            raise UsageError(
                "Perplexity is measured on held-out texts: give some with --data PATH."
            )

    def evaluate(
        self,
        subject: Subject,
        names: Sequence[str],
        options: RunOptions,
        samples: Sequence[Sample] | None = None,
    ) -> JsonObject:
        """Reads every text with every system, or resumes that; see `Suite`."""
        from longreach.evals.suites.perplexity.measure import measure
        from longreach.evals.suites.perplexity.texts import read_texts
        from longreach.evals.systems.registry import make_model_systems

        self.check_window(subject.model, beyond=options.beyond_window)
        too_long: TooLong = "read" if options.beyond_window else "refuse"
        chosen = names or self.default_systems(subject)
        systems = make_model_systems(chosen, subject.model, subject.tokenizer, too_long)
        texts = read_texts(
            self.data,
            subject.tokenizer,
            self.lengths[0],
            samples=self.samples,
            say=options.say,
        )
        return measure(
            texts,
            systems,
            options.out,
            settings={"model": subject.name} | self.settings(),
            seed=self.seed,
            arguments=options.arguments,
            say=options.say,
        )

    @classmethod
    def report(cls) -> SuiteReport:
        """Returns what makes a report: perplexity by bucket of positions."""
        from longreach.evals.report.buckets import BucketReport

        return BucketReport(cls.title)
