"""The suite `docqa`: questions about documents, a user's own or those of published data sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from longreach.errors import UsageError
from longreach.evals.run.rows import JsonObject
from longreach.evals.run.sample import Sample
from longreach.evals.suites.base import Suite
from longreach.evals.suites.docqa.presets import LONGBENCH, PRESETS
from longreach.evals.suites.option import at_least, check_data_names, option, read_pairs
from longreach.evals.systems.names import (
    ADAPTED,
    ADAPTED_WAYS,
    BM25,
    FULL,
    MEAN_POOL,
    MODELS,
    WAYS,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from longreach.corpus.store import Corpus
    from longreach.evals.report.base import SuiteReport
    from longreach.evals.run.subject import RunOptions, Subject
    from longreach.evals.systems.models import TooLong


def check_compressor_name(name: str, value: str | None) -> None:
    """Raises UsageError where there is no such compressor."""
    from longreach.compressors.registry import check_reference

    if value is not None:
        check_reference(value)


def check_folder(name: str, value: Path | None) -> None:
    """Raises UsageError where a folder does not exist."""
    if value is not None and not value.is_dir():
        raise UsageError(f"--{name} is '{value}', which is no folder: give the one of an adapter.")


@dataclass(frozen=True)
class DocumentSuite(Suite):
    """Questions about documents; see `suites.docqa.samples`.

    Attributes:
        data: Published data sets by the names of their tasks, or "longbench" for all of its own.
        split: Of these data; None takes the one for validation.
        max_new_tokens: Of an answer; None takes the task's own.
        questions: A user's own questions, as JSON lines.
        documents: Files and folders that these are about, unless they are about a corpus.
        compressor: That makes the memory; None takes the best one for the model.
        ratio: Tokens for each vector; None takes the compressor's own.
        adapter: Folder of the LoRA adapter that reads memory; None takes the corpus's own.
    """

    name: ClassVar[str] = "docqa"
    title: ClassVar[str] = "Questions about documents"
    summary: ClassVar[str] = (
        "Ask about documents: with nothing read, the ends, passages, memory, and the whole."
    )
    example: ClassVar[str] = (
        "docqa smollm2 --questions asked.jsonl --documents book.txt --out runs/docqa"
    )
    known_tasks: ClassVar[tuple[str, ...]] = tuple(PRESETS)
    systems: ClassVar[tuple[str, ...]] = (*MODELS, *WAYS, *ADAPTED_WAYS)

    samples: int | None = option(
        None,
        "Questions of each task, drawn by the seed.",
        value_type=int,
        shown="all",
        check=at_least(1),
    )
    data: dict[str, str] = option(
        {},
        "Published data: fairytaleqa=FOLDER, qmsum=FILE, longbench=FOLDER or a Hub id, ... May be"
        " repeated.",
        metavar="NAME=PATH",
        repeated=True,
        parse=read_pairs,
        check=check_data_names((*PRESETS, LONGBENCH), "docqa"),
    )
    split: str | None = option(None, "Split of the data.", shown="the one for validation")
    max_new_tokens: int | None = option(
        None,
        "Length of an answer.",
        value_type=int,
        shown="by task",
        check=at_least(1),
    )
    questions: Path | None = option(
        None,
        "Your own questions, JSON lines as `study` reads them.",
        value_type=Path,
        record=None,
    )
    documents: tuple[Path, ...] = option(
        (),
        "The documents that --questions asks about, unless a corpus holds them; may be repeated.",
        value_type=Path,
        repeated=True,
        record=None,
    )
    compressor: str | None = option(
        None,
        "Compressor of the documents, named as in `ingest`.",
        shown="by the model",
        check=check_compressor_name,
        record=None,
    )
    ratio: int | None = option(
        None,
        "Tokens for each vector, as in `ingest`.",
        value_type=int,
        check=at_least(1),
        record=None,
    )
    adapter: Path | None = option(
        None,
        "PEFT folder of the adapter that reads memory.",
        value_type=Path,
        shown="the corpus's own",
        check=check_folder,
        record=None,
    )

    def check(self) -> None:
        """Raises UsageError where options do not go together."""
        # Published data bring their own documents.
        if self.documents and not self.questions:
            raise UsageError(
                "--documents are what --questions asks about: give these too, or omit --documents."
            )
        # Options that would do nothing are refused, so that nobody believes they did.
        if self.questions and (self.tasks or self.split):
            raise UsageError(
                "--tasks and --split choose from published data, not from --questions: omit them."
            )
        # Scores over both would be about nothing in particular.
        if self.questions and self.data:
            raise UsageError(
                "--questions asks about --documents and --data is a published set: omit one of"
                " them."
            )

    def make_samples(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        say: Callable[[str], None],
        corpus: Corpus | None = None,
    ) -> list[Sample]:
        """Returns the questions with their documents.

        Args:
            tokenizer: Not needed: documents are as long as they are.
            say: Is told what of a document could not be read.
            corpus: Holds the documents that questions are about; None where --documents do.

        Raises:
            UsageError: Data or questions are missing or malformed.
            DocumentError: A document or a data set cannot be read.
        """
        from longreach.evals.suites.docqa.gathering import gather_samples

        return gather_samples(self, say, corpus)

    def default_systems(self, subject: Subject) -> tuple[str, ...]:
        """Returns full attention and every way of reading that says something of its own."""
        names = [FULL]
        for way in WAYS:
            # Mean pooling is what compresses anyway.
            if way != MEAN_POOL or subject.memory_settings.get("method") != MEAN_POOL:
                names.append(way)
        if self.adapter or subject.own_adapter:
            # What helps to read memory may help to read text as well.
            names.append(BM25 + ADAPTED)
        return tuple(names)

    def evaluate(
        self,
        subject: Subject,
        names: Sequence[str],
        options: RunOptions,
        samples: Sequence[Sample] | None = None,
    ) -> JsonObject:
        """Asks systems about the documents, or resumes that; see `Suite`."""
        from longreach.evals.run.runner import evaluate
        from longreach.evals.systems.registry import count_excess, make_document_systems

        # They are there already where they had to be read before a model was loaded.
        if samples is None:
            samples = self.make_samples(subject.tokenizer, options.say, subject.corpus)
        chosen = names or self.default_systems(subject)
        # LongBench's own rule is to cut the middle; documents of others have to fit to be read.
        all_cut = all(sample.task.startswith(LONGBENCH) for sample in samples)
        too_long: TooLong = "cut" if all_cut else "leave out"
        if options.beyond_window:
            too_long = "read"
        systems = make_document_systems(chosen, samples, subject, self.adapter, too_long)
        # How much was beyond the window tells how much of a score is about cut texts.
        settings = {
            "model": subject.name,
            "compressor": subject.memory_settings,
            "beyond_window": count_excess(systems, samples, options.say),
        }
        return evaluate(
            samples,
            systems,
            options.out,
            suite=self.name,
            settings=settings | self.settings(),
            seed=self.seed,
            batch_size=options.batch_size,
            arguments=options.arguments,
            device=subject.model.device,
            say=options.say,
            metrics=self.metrics(),
        )

    @classmethod
    def report(cls) -> SuiteReport:
        """Returns what makes a report: scores against positions, and when preparing pays."""
        from longreach.evals.report.documents import DocumentReport

        return DocumentReport(cls.title, cls.metrics())
