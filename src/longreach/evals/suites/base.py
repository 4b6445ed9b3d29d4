"""What a suite is: a class with its options, its samples, its systems and its report.

A suite of your own is a subclass, given to `registry.register`:

    @register
    @dataclass(frozen=True)
    class Capitals(Suite):
        name: ClassVar[str] = "capitals"
        title: ClassVar[str] = "Capitals of countries"
        summary: ClassVar[str] = "Ask for the capitals of countries."
        countries: int = option(10, "Countries to ask about.", value_type=int, check=at_least(1))

        def make_samples(self, tokenizer, say):
            ...

`longreach eval capitals MODEL --countries 3` then runs it. Importing a suite loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from longreach.errors import UsageError
from longreach.evals.run.rows import JsonObject
from longreach.evals.suites.option import SuiteOption, at_least, option, options_of, split_names
from longreach.evals.systems.names import MODELS, is_peer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from longreach.evals.report.base import SuiteReport
    from longreach.evals.run.sample import Sample
    from longreach.evals.run.subject import RunOptions, Subject
    from longreach.evals.scores.metrics import Metrics
    from longreach.evals.systems.base import System
    from longreach.evals.systems.models import TooLong


@dataclass(frozen=True)
class Suite:
    """A suite with its options chosen; the fields of a subclass are options of its command.

    Attributes:
        name: In commands, folders of runs and reports.
        title: Its heading in a report.
        summary: A sentence for `--help`.
        example: The words behind `longreach eval` of an example, for `--help`.
        known_tasks: Names of its tasks; () where it has none.
        systems: Names of the systems that can answer it.
        takes_peers: Whether other projects can answer it as well.
        tasks: Those that are asked; () asks all that can be asked with the data given.
        samples: Of each task and length; None asks as many as the suite thinks best.
        seed: Of all that is drawn.

    Raises:
        UsageError: An option has a value that cannot be.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    example: ClassVar[str] = ""
    known_tasks: ClassVar[tuple[str, ...]] = ()
    systems: ClassVar[tuple[str, ...]] = MODELS
    takes_peers: ClassVar[bool] = True

    tasks: tuple[str, ...] = option(
        (),
        "Tasks of the suite, with commas between them.",
        shown="all that there are data for",
        parse=split_names,
    )
    samples: int | None = option(
        None,
        "Samples of each task and length.",
        value_type=int,
        shown="all",
        check=at_least(1),
    )
    seed: int = option(
        42,
        "Seed of everything that is drawn.",
        value_type=int,
        check=at_least(0),
        record=None,  # a run has a place of its own for it
    )

    def __post_init__(self) -> None:
        for one in self.options():
            # Values come from the command line and from Python alike.
            if one.check is not None:
                one.check(one.name, getattr(self, one.name))
        for task in self.tasks:
            if task not in self.known_tasks:
                known = ", ".join(self.known_tasks)
                raise UsageError(f"There is no task '{task}' of {self.name}: use {known}.")
        self.check()

    def check(self) -> None:
        """Raises UsageError where options do not go together."""

    @classmethod
    def options(cls) -> tuple[SuiteOption, ...]:
        """Returns the options of the command; a suite without tasks offers none to choose."""
        found = []
        for one in options_of(cls):
            # There is nothing to choose from.
            if cls.known_tasks or one.name != "tasks":
                found.append(one)
        return tuple(found)

    @classmethod
    def from_words(cls, words: Mapping[str, object]) -> Self:
        """Returns the suite that options of the command line choose.

        Args:
            words: What was given, by the names of options; None where nothing was.

        Raises:
            UsageError: A word is not understood, or has a value that cannot be.
        """
        values: dict[str, Any] = {}
        for one in cls.options():
            given = words.get(one.name)
            # What was not given has the default of the class.
            if given is None or given == []:
                continue
            if one.parse is not None:
                values[one.name] = one.parse(one.name, given)
            # A value of a frozen class does not change.
            elif isinstance(given, list):
                values[one.name] = tuple(given)
            else:
                values[one.name] = given
        return cls(**values)

    def settings(self) -> dict[str, object]:
        """Returns what decides the samples, as JSON; files count by their names only."""
        # Every run of an earlier release says these, and has to be resumed by the same settings.
        found: dict[str, object] = {"tasks": [], "samples": None, "data": []}
        for one in self.options():
            if one.record is not None:
                found[one.name] = one.record(getattr(self, one.name))
        return found

    def make_samples(
        self, tokenizer: PreTrainedTokenizerBase, say: Callable[[str], None]
    ) -> list[Sample]:
        """Returns the samples, in order, each with an id that is the same in every such run.

        Args:
            tokenizer: Of the model that is asked; its tokens are counted.
            say: Is told what is omitted, and why.

        Raises:
            UsageError: Data are missing or malformed.
        """
        raise NotImplementedError

    @classmethod
    def metrics(cls) -> Metrics:
        """Returns what scores answers, by the names that samples give; a suite may add its own."""
        from longreach.evals.scores.metrics import METRICS

        return METRICS

    @classmethod
    def report(cls) -> SuiteReport:
        """Returns what makes rows, tables and charts of the predictions of a run."""
        from longreach.evals.report.answers import AnswerReport

        return AnswerReport(cls.title, cls.metrics())

    @classmethod
    def check_systems(cls, names: Sequence[str]) -> None:
        """Raises UsageError where one of these systems cannot answer the suite."""
        for name in names:
            if name not in cls.systems and not (cls.takes_peers and is_peer(name)):
                known = ", ".join(cls.systems)
                raise UsageError(f"There is no system '{name}' of {cls.name}: use {known}.")

    def default_systems(self, subject: Subject) -> tuple[str, ...]:
        """Returns the systems that answer unless the user names others."""
        return MODELS

    def make_systems(
        self, names: Sequence[str], subject: Subject, options: RunOptions
    ) -> Sequence[System]:
        """Returns the systems of these names."""
        from longreach.evals.systems.registry import make_model_systems

        too_long: TooLong = "read" if options.beyond_window else "refuse"
        return make_model_systems(names, subject.model, subject.tokenizer, too_long)

    def check_window(self, model: PreTrainedModel, *, beyond: bool) -> None:
        """Raises ContextError where the suite asks for more than the model's window.

        Args:
            model: That is asked.
            beyond: Whether that is wanted.
        """

    def evaluate(
        self,
        subject: Subject,
        names: Sequence[str],
        options: RunOptions,
        samples: Sequence[Sample] | None = None,
    ) -> JsonObject:
        """Asks systems the samples, or resumes that, and scores the answers.

        Args:
            subject: What is asked.
            names: Of the systems; empty takes the suite's own choice.
            options: How it is run.
            samples: Those of the suite, where they are there already.

        Returns:
            What is in scores.json: {"rows": [...]}.

        Raises:
            UsageError: The folder of the run is another run's, or see `make_samples`.
            ContextError: A sample is longer than the window of a model.
        """
        from longreach.evals.run.runner import evaluate

        # What cannot be is refused before anything is drawn.
        self.check_window(subject.model, beyond=options.beyond_window)
        # Systems come first: one that is not installed is told before hours of drawing.
        chosen = names or self.default_systems(subject)
        systems = self.make_systems(chosen, subject, options)
        # Whoever opened the subject may have made them, to refuse them early.
        if samples is None:
            samples = self.make_samples(subject.tokenizer, options.say)
        return evaluate(
            samples,
            systems,
            options.out,
            suite=self.name,
            settings={"model": subject.name} | self.settings(),
            seed=self.seed,
            batch_size=options.batch_size,
            arguments=options.arguments,
            device=subject.model.device,
            say=options.say,
            metrics=self.metrics(),
        )
