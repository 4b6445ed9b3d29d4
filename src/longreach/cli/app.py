"""The application: its commands, and the boundary where errors become one sentence and an exit code."""

import os
import sys
from typing import Any

import typer

from longreach.cli import ask, corpus, doctor, ingest
from longreach.cli.output import fail
from longreach.errors import LongreachError

app = typer.Typer(
    name="longreach",
    help="Long contexts for open language models at a fraction of the memory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("ingest")(ingest.ingest)
app.command("ask")(ask.ask)
app.add_typer(corpus.app, name="corpus")
app.command("doctor")(doctor.doctor)


@app.callback(invoke_without_command=True)
def _options(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from longreach import __version__

        typer.echo(f"longreach {__version__}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> Any:
    """Runs the command line and exits: 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in arguments
    try:
        app(args=arguments, prog_name="longreach")
    except LongreachError as error:
        fail(str(error), type(error).__name__, as_json, error.exit_code)
    except KeyboardInterrupt:
        fail("Interrupted: nothing is lost, the same command goes on from here.", "KeyboardInterrupt", as_json, 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader went away: no noise at exit
        sys.exit(1)
    except MemoryError:
        fail("Out of memory: lower --segment-tokens, --batch-size or --budget.", "MemoryError", as_json, 1)
    except Exception as error:
        if os.environ.get("LONGREACH_DEBUG"):
            raise
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        text = f"Something went wrong inside longreach ({' '.join(reason.split())[:300]}): please report it, with the "
        fail(text + "traceback that LONGREACH_DEBUG=1 shows.", type(error).__name__, as_json, 1)
