"""`longreach eval SUITE`: how good answers are and what they take, in several ways of reading.

Each suite is a command with the options that the suite declares, made when it is asked for.
"""

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import OptionInfo

from longreach.cli.output import (
    DeviceOption,
    JsonOption,
    StoreOption,
    at_least_one,
    dtype_checked,
    emit,
    memory_said,
    note,
    table,
)
from longreach.errors import UsageError
from longreach.jsontext import read_field

if TYPE_CHECKING:
    from longreach.evals.run.rows import Row
    from longreach.evals.suites.base import Suite
    from longreach.evals.suites.option import SuiteOption

_HELP = """Ask the questions of a suite in several ways of reading, and score the answers.

Predictions go to RUN/predictions.jsonl as they come, scores with 95% intervals to RUN/scores.json.
Stopped anywhere, the same command resumes the run, and no question is asked twice. Every suite has
options of its own: see longreach eval SUITE --help.

Example: longreach eval ruler smollm2 --lengths 2048,4096 --tasks niah_single_1,vt --out runs/ruler
"""
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_MODEL = typer.Argument(metavar="MODEL", help="Hub id, folder, .gguf file or 'smollm2'.")


class SuiteGroup(TyperGroup):
    """The commands of all suites that are registered, whenever that was."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Returns the names of the suites."""
        from longreach.evals.suites.registry import suites

        return list(suites())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Returns the command of a suite; raises UsageError where there is none."""
        from longreach.evals.suites.registry import find_suite

        return make_command(find_suite(cmd_name))


class SuiteCommand(TyperCommand):
    """The command of one suite, which says what it has where it lacks an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the words of the command line; raises UsageError for an unknown option."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # Which package its class lies in depends on typer's release.
            if type(error).__name__ != "NoSuchOption":
                raise
            flag = str(getattr(error, "option_name", ""))
            raise UsageError(explain_unknown_option(str(self.name), flag)) from error


app = typer.Typer(
    cls=SuiteGroup,
    help=_HELP,
    no_args_is_help=True,
    subcommand_metavar="SUITE {MODEL|CORPUS}",
)


def explain_unknown_option(name: str, flag: str) -> str:
    """Returns the sentence that says which options a suite has, and whose the unknown one is."""
    from longreach.evals.suites.registry import find_option_owners, find_suite

    own = ", ".join(option.flag for option in find_suite(name).options())
    owners = ", ".join(find_option_owners(flag))
    elsewhere = f" (it belongs to {owners})" if owners else ""
    return f"The suite '{name}' has no option '{flag}'{elsewhere}: its own are {own}."


def make_command(suite: "type[Suite]") -> Any:
    """Returns the command of a suite, with its own options and those that all suites have."""
    from longreach.evals.suites.docqa.suite import DocumentSuite

    options = suite.options()

    def run(**words: Any) -> None:
        own = {option.name: words.pop(option.name) for option in options}
        run_suite(suite, own, **words)

    # The first two are not of the command; the model and --out come before what the suite adds.
    shared = list(inspect.signature(run_suite).parameters.values())[2:]
    named = {}
    for parameter in [*shared[:2], *map(make_parameter, options), *shared[2:]]:
        named[parameter.name] = parameter.replace(kind=_KEYWORD)
    # Help names the systems that can answer this suite.
    named["systems"] = named["systems"].replace(default=_systems_option(suite))
    # Only documents may lie in a corpus.
    if not issubclass(suite, DocumentSuite):
        del named["store"]
        named["target"] = named["target"].replace(default=_MODEL)
    run.__signature__ = inspect.Signature(list(named.values()))  # type: ignore[attr-defined]
    run.__annotations__ = {name: parameter.annotation for name, parameter in named.items()}
    text = suite.summary
    if suite.example:
        text += f"\n\nExample: longreach eval {suite.example}"
    # An application of its own, because typer makes commands of functions only inside of one.
    made = typer.Typer(add_completion=False, rich_markup_mode=None)
    made.command(suite.name, cls=SuiteCommand, help=text)(run)
    return typer.main.get_command(made)


def _systems_option(suite: "type[Suite]") -> OptionInfo:
    known = list(suite.systems)
    if suite.takes_peers:
        known.append("kvpress[:PRESS:RATIO]")
    return typer.Option(
        None,
        "--systems",
        help=f"Ways of answering to compare: {', '.join(known)}. [default: by the suite]",
    )


def make_parameter(option: "SuiteOption") -> inspect.Parameter:
    """Returns the parameter of a command that is an option of a suite."""
    # What is not given has no value here: its default is the suite's.
    default: object = None
    annotation: Any = option.value_type | None
    if option.repeated:
        default = []
        annotation = list[option.value_type]  # type: ignore[name-defined]
    elif option.value_type is bool:
        default = False
        annotation = bool
    declared = typer.Option(
        default, option.flag, help=option.help, metavar=option.metavar, show_default=False
    )
    return inspect.Parameter(option.name, _KEYWORD, default=declared, annotation=annotation)


def run_suite(
    suite: "type[Suite]",
    words: Mapping[str, object],
    target: str = typer.Argument(
        metavar="MODEL|CORPUS",
        help="Hub id, folder, .gguf file or 'smollm2'; or a corpus of the store.",
    ),
    out: Path = typer.Option(
        ..., "--out", metavar="RUN", help="Folder of the run; the same command resumes it."
    ),
    systems: str | None = typer.Option(None, "--systems"),
    readers: str | None = typer.Option(None, "--readers", hidden=True),
    beyond_window: bool = typer.Option(
        False, "--beyond-window", help="Read lengths that the model was not made for."
    ),
    batch_size: int = typer.Option(
        1, "--batch-size", callback=at_least_one, help="Samples answered together."
    ),
    dtype: str | None = typer.Option(
        None,
        "--dtype",
        callback=dtype_checked,
        help="dtype of the model. [default: bfloat16; cpu: float32]",
    ),
    store: Path | None = StoreOption,
    device: str | None = DeviceOption,
    as_json: bool = JsonOption,
) -> None:
    """Runs a suite on a model or a corpus, and prints its scores."""
    from longreach.evals.run.subject import RunOptions
    from longreach.evals.suites.docqa.suite import DocumentSuite
    from longreach.evals.suites.option import split_names
    from longreach.training.common.run import refuse_foreign

    # All of this before a model is loaded for nothing.
    refuse_foreign(out)
    asked = suite.from_words(words)
    # The hidden --readers is the earlier name of --systems.
    names = split_names("systems", systems or readers or "")
    suite.check_systems(names)
    options = RunOptions(
        out,
        note,
        batch_size=batch_size,
        beyond_window=beyond_window,
        arguments=sys.argv[1:],
    )
    with memory_said("--lengths or --batch-size", as_json):
        if isinstance(asked, DocumentSuite):
            from longreach.session.targets import evaluate_documents

            scores = evaluate_documents(
                asked, target, names, options, store=store, dtype=dtype, device=device
            )
        else:
            from longreach.evals.run.opening import open_model

            scores = asked.evaluate(open_model(target, dtype, device), names, options)
    if as_json:
        emit({"run": str(out), "suite": suite.name, **scores})
    else:
        print_scores(read_field(scores, "rows", list))


def print_scores(rows: "Sequence[Row]") -> None:
    """Prints the rows of scores.json as a table."""
    # Perplexity has rows of its own.
    if rows and "bucket" in rows[0]:
        table(("system", "positions", "perplexity", "tokens"), _bucket_cells(rows))
        return
    head = (
        "system",
        "task",
        "length",
        "score",
        "95%",
        "samples",
        "positions",
        "first token s",
        "KV MiB",
    )
    table(head, _score_cells(rows))


def _bucket_cells(rows: "Sequence[Row]") -> Iterator[tuple[object, ...]]:
    for row in rows:
        start, stop = row["bucket"]
        span = f"{start:,}-{stop:,}"
        yield row["reader"], span, f"{row['perplexity']:.2f}", row["tokens"]


def _score_cells(rows: "Sequence[Row]") -> Iterator[tuple[object, ...]]:
    from longreach.evals.report.parts import has_interval, too_few

    for row in rows:
        sure = too_few(row)
        if has_interval(row):
            sure = f"[{row['low']:.1f}, {row['high']:.1f}]"
        yield (
            row["reader"],
            row["task"],
            row["length"] or "",
            f"{row['score']:.1f}",
            sure,
            row["samples"],
            round(row["positions"]),
            f"{row['first_token_seconds']:.2f}",
            f"{row['kv_bytes'] / 2**20:.1f}",
        )
