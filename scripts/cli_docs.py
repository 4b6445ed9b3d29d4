"""Prints docs/cli.md: the --help of every command. With --check: compares, and exits 1 where the
file is stale."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from longreach.cli.app import app

DOCS = Path(__file__).parent.parent / "docs" / "cli.md"
HEAD = """# The command line

Written by `python scripts/cli_docs.py > docs/cli.md` out of `--help`; do not edit it by hand.

Every command exits with 0 (done), 1 (failed), 2 (wrong use) or 130 (interrupted), says in one sentence what went
wrong, shows progress on stderr, and with `--json` prints exactly one JSON object on stdout, for errors
`{"error": ..., "type": ...}`.
"""


def commands(command: Any, path: str, parent: Any = None) -> Iterator[tuple[str, str]]:
    """The path and the help of a command and of all below it."""
    context = command.make_context(path.rsplit(" ")[-1], [], parent=parent, resilient_parsing=True)
    yield path, command.get_help(context)
    if not hasattr(command, "list_commands"):
        return
    # Asked for by name: the commands of `eval` are made of the suites that are registered.
    for name in command.list_commands(context):
        yield from commands(command.get_command(context, name), f"{path} {name}", context)


def markdown() -> str:
    """The whole page."""
    parts = [HEAD]
    for path, text in commands(typer.main.get_command(app), "longreach"):
        parts.append(f"## {path}\n\n```text\n{text.rstrip()}\n```\n")
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    """Prints the page, or compares it with the file."""
    if arguments != ["--check"]:
        print(markdown(), end="")
        return 0
    if DOCS.is_file() and DOCS.read_text(encoding="utf-8") == markdown():
        return 0
    print(f"{DOCS} is stale: python scripts/cli_docs.py > docs/cli.md", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
