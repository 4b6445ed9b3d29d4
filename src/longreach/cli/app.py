"""The application: its commands, and the boundary where errors become one sentence and an exit
code."""

import os
import sys
import warnings
from typing import NoReturn, TextIO

import typer

from longreach.cli import (
    ask,
    bench,
    convert,
    corpus,
    doctor,
    eval,
    extend,
    ingest,
    layers,
    plan,
    pretrain,
    report,
    serve,
    study,
)
from longreach.cli.output import fail
from longreach.errors import LongreachError, out_of_memory
from longreach.training.common.options import TrainingCommand

HELP = """Long contexts for open language models at a fraction of the memory.

Example: longreach ingest book.txt --corpus library && longreach ask library "Who stole the tarts?"
"""

app = typer.Typer(
    name="longreach",
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"terminal_width": 110},  # the same help everywhere, whatever the terminal
)
app.command("ingest", cls=ingest.IngestCommand)(ingest.ingest)
app.command("study", cls=TrainingCommand)(study.study)
app.command("ask")(ask.ask)
app.command("serve")(serve.serve)
app.add_typer(corpus.app, name="corpus")
app.command("convert")(convert.convert)
app.command("layers")(layers.layers)
app.command("extend", cls=TrainingCommand)(extend.extend)
app.command("pretrain", cls=pretrain.PretrainCommand)(pretrain.pretrain)
app.add_typer(eval.app, name="eval")
app.command("report")(report.report)
app.command("plan")(plan.plan)
app.add_typer(bench.app, name="bench")
app.command("doctor")(doctor.doctor)


@app.callback(invoke_without_command=True)
def _options(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if version:
        from longreach import __version__

        typer.echo(f"longreach {__version__}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line and exits: 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    if arguments is None:
        # Only on the real command line: a caller in Python keeps its process.
        _take_utf8()
        arguments = sys.argv[1:]
    as_json = "--json" in arguments
    if "--" in arguments:
        # What comes behind it are no options.
        as_json = "--json" in arguments[: arguments.index("--")]
    for stream in (sys.stdout, sys.stderr):
        # What a terminal cannot show is no reason to fail.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    _quieten_libraries()
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK") != "0":
        # Of the processes of `accelerate launch` or torchrun the first one prints the result.
        _silence(sys.stdout)
    try:
        _run(arguments, as_json)
    except OSError as error:
        # Nothing can be said on stdout any more.
        _silence(sys.stdout)
        if isinstance(error, BrokenPipeError):
            # Who was reading went away: no noise.
            _silence(sys.stderr)
        typer.echo(
            f"longreach: The output cannot be written ({error.strerror}): send it elsewhere.",
            err=True,
        )
        sys.exit(1)
    sys.exit(0)


def _take_utf8() -> None:
    """Starts the program anew in Python's UTF-8 mode where the locale knows ASCII only.

    Names of files in other letters could not be said there.
    """
    if sys.getfilesystemencoding().lower() in ("ascii", "us-ascii", "ansi_x3.4-1968"):
        command = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execve(sys.executable, command, os.environ | {"PYTHONUTF8": "1"})


def _quieten_libraries() -> None:
    """Keeps what other libraries say to programmers out of the output.

    Their bars are shown on terminals only.
    Whoever asks for warnings (`python -W`, $LONGREACH_DEBUG) or sets these variables gets them.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # In a file or a pipe every movement of a bar would be another line.
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if not sys.warnoptions and not os.environ.get("LONGREACH_DEBUG"):
        warnings.showwarning = _ignore_warning


def _ignore_warning(*_: object, **__: object) -> None:
    """Shows no warning; those that were made errors still are."""


def _silence(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run(arguments: list[str], as_json: bool) -> None:
    """Runs one command and ends with `fail` where it did not succeed."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("longreach", list(arguments)) as context:
            command.invoke(context)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except LongreachError as error:
        fail(str(error), type(error).__name__, as_json, error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        fail(
            "Interrupted: nothing is lost, the same command resumes from here.",
            "KeyboardInterrupt",
            as_json,
            130,
        )
    except BrokenPipeError:
        raise
    except OSError as error:
        fail(
            f"The system refused ({error}): free some space or permit access, and try again.",
            "OSError",
            as_json,
            1,
        )
    except Exception as error:
        # A wrong call; which package its class lies in depends on typer's release.
        if hasattr(error, "format_message"):
            _wrong_call(error, as_json)
        if out_of_memory(error):
            fail(
                "Out of memory: lower --segment-tokens, --batch-size or --budget.",
                "MemoryError",
                as_json,
                1,
            )
        if os.environ.get("LONGREACH_DEBUG"):
            raise
        kind = type(error).__name__
        reason = kind
        if str(error):
            reason = " ".join(f"{kind}: {error}".split())[:300]
        fail(
            f"Something went wrong inside longreach ({reason}): please report it, with the"
            " traceback that LONGREACH_DEBUG=1 shows.",
            kind,
            as_json,
            1,
        )


def _wrong_call(error: Exception, as_json: bool) -> NoReturn:
    """Ends a command that was called with options or arguments it does not have."""
    context = getattr(error, "ctx", None)
    # A group that is called alone shows its help, and is a wrong call all the same.
    if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
        typer.echo(context.get_help(), err=True)
        sys.exit(2)
    text = " ".join(error.format_message().split())  # type: ignore[attr-defined]
    path = "longreach"
    if context is not None:
        path = context.command_path
    fail(f"{text.rstrip('.')}: see `{path} --help`.", "UsageError", as_json, 2)
