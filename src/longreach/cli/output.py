"""What commands print: one JSON object on stdout, or text for people; progress and errors on
stderr."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import typer

from longreach.errors import UsageError, out_of_memory
from longreach.jsontext import JsonObject
from longreach.models.device import check_device_name, check_dtype_name
from longreach.wording import printable

StoreOption = typer.Option(
    None,
    "--store",
    metavar="DIR",
    help="Where corpora live. [default: $LONGREACH_STORE, else the user's data folder]",
)
ModelOption = typer.Option(
    None,
    "--model",
    help="Hub id, folder, .gguf file or 'smollm2'. [default: the one of the corpus, else smollm2]",
)


def device_checked(value: str | None) -> str | None:
    """Refuses a device that no machine has, before anything is loaded."""
    if value is not None:
        check_device_name(value)
    return value


def at_least_one(param: typer.CallbackParam, value: int | None) -> int | None:
    """Refuses a number below 1, before anything is loaded."""
    check_at_least_one(str(param.name), value)
    return value


def check_at_least_one(name: str, value: int | None) -> None:
    """Raises UsageError where a number is given that is below 1."""
    if value is not None and value < 1:
        raise UsageError(f"{name} is {value}; it must be at least 1.")


def dtype_checked(value: str | None) -> str | None:
    """Refuses a dtype that weights cannot have, before anything is loaded."""
    if value is not None:
        check_dtype_name(value)
    return value


DeviceOption = typer.Option(
    None,
    "--device",
    callback=device_checked,
    help="Where the model works: cpu, cuda, cuda:1, ... [default: the GPU where there is one]",
)
JsonOption = typer.Option(
    False, "--json", help="Print one JSON object on stdout, and nothing else there."
)


def emit(value: JsonObject) -> None:
    """Prints the one JSON object of a command; nothing in it can steer a terminal."""
    text = json.dumps(value, ensure_ascii=False)
    if text != printable(text):
        # JSON leaves some characters as they are that a terminal obeys.
        text = json.dumps(value)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        # The stream is not UTF-8, or a file name is not.
        text = json.dumps(value)
    typer.echo(text)


def say(text: str = "", *, end: str = "\n") -> None:
    """Prints lines for people on stdout; nothing in them can steer the terminal."""
    typer.echo(printable(text, lines=True) + end, nl=False)


def note(text: str) -> None:
    """Says one line on stderr, where it disturbs no pipe."""
    typer.echo(printable(text), err=True)


def fail(text: str, kind: str, as_json: bool, code: int) -> NoReturn:
    """Ends the command with one sentence."""
    if as_json:
        emit({"error": text, "type": kind})
    # With --json too: programs read stdout, and people stderr.
    note(f"longreach: {text}")
    sys.exit(code)


@contextmanager
def memory_said(lower: str, as_json: bool) -> Iterator[None]:
    """Ends the command where memory runs out, with the options that save some."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        fail(f"Out of memory: lower {lower}, or use a smaller --dtype.", "MemoryError", as_json, 1)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints columns: numbers to the right, everything else to the left; never cut off."""
    lines = [list(header)]
    for row in rows:
        lines.append([_format_cell(cell) for cell in row])
    widths = [0] * len(header)
    for line in lines:
        for column, cell in enumerate(line):
            widths[column] = max(widths[column], len(cell))
    for line in lines:
        parts = []
        for cell, width in zip(line, widths, strict=True):
            parts.append(cell.rjust(width) if _is_number(cell) else cell.ljust(width))
        say("  ".join(parts).rstrip())


def _format_cell(cell: object) -> str:
    if isinstance(cell, int):
        return f"{cell:,}"
    return printable(str(cell))


def _is_number(cell: str) -> bool:
    # Separators, points and signs are part of the numbers that are printed here.
    return cell.replace(",", "").replace(".", "").replace("-", "").isdigit()
