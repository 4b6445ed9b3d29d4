"""`longreach ingest`: documents into a corpus."""

from pathlib import Path
from typing import Any

import typer

from longreach.cli.method_options import MethodCommand, given_options
from longreach.cli.output import (
    DeviceOption,
    JsonOption,
    ModelOption,
    StoreOption,
    emit,
    note,
    say,
)
from longreach.compressors.method import Option
from longreach.compressors.registry import find_method, methods
from longreach.wording import counted

_MOST_KINDS = 10  # that are named one by one


class IngestCommand(MethodCommand):
    """The command, whose help lists the suffixes of all registered formats when it is shown."""

    after = "compressor"

    def owners(self) -> dict[str, tuple[Option, ...]]:
        """See `MethodCommand.owners`."""
        return {name: method.options for name, method in methods().items()}

    def get_help(self, ctx: Any) -> str:
        """Returns the help."""
        from longreach.corpus.documents import list_suffixes

        kinds = " ".join(suffix.removeprefix(".") for suffix in list_suffixes())
        paths: Any = next(parameter for parameter in self.params if parameter.name == "paths")
        paths.help = f"Files and folders. Kinds that are read: {kinds}."
        return super().get_help(ctx)


def ingest(
    context: typer.Context,
    paths: list[str] = typer.Argument(metavar="PATH", help="Files and folders."),
    corpus: str = typer.Option(
        ..., "--corpus", help="The corpus; it is made if it does not exist."
    ),
    compressor: str | None = typer.Option(
        None,
        "--compressor",
        help=(
            "The name of a method that needs no training, or the name or folder of a trained"
            " compressor. [default: by the model]"
        ),
    ),
    include: list[str] = typer.Option(
        [],
        "--include",
        metavar="PATTERN",
        help="Read only files in folders that match. May be repeated.",
    ),
    exclude: list[str] = typer.Option(
        [],
        "--exclude",
        metavar="PATTERN",
        help="Skip files in folders that match. May be repeated.",
    ),
    follow_links: bool = typer.Option(
        False,
        "--follow-links",
        help="Follow links in folders to other folders and to files elsewhere.",
    ),
    prune: bool = typer.Option(
        False, "--prune", help="Remove documents whose files under PATH no longer exist."
    ),
    force: bool = typer.Option(
        False,
        "--force",
        help="Prune even where that removes most documents of a folder, as when its disk is away.",
    ),
    limit: list[str] = typer.Option(
        [],
        "--limit",
        metavar="NAME=VALUE",
        help=(
            "What one file may cost: file_bytes, unpacked_bytes, members, text_characters, seconds"
            " or memory_bytes. May be repeated. [default: file_bytes=512MiB unpacked_bytes=512MiB"
            " members=10000 text_characters=50000000 seconds=120 memory_bytes=2GiB]"
        ),
    ),
    batch_size: int | None = typer.Option(
        None, "--batch-size", min=1, help="Segments in one forward pass."
    ),
    model: str | None = ModelOption,
    store: Path | None = StoreOption,
    device: str | None = DeviceOption,
    as_json: bool = JsonOption,
) -> None:
    """Read documents once and keep what they become.

    Run it again at any time: unchanged files are left alone, changed ones are replaced, and
    interrupted work is resumed. Files that cannot be read are skipped and listed at the end, with
    exit code 1. Parts of a file that cannot be read, such as a scanned page among others, are
    listed too, and `corpus show` lists them later.

    A PATTERN is one of gitignore. Without a slash it is about the name of a file or folder:
    '*.pdf', drafts. With one it is about the path from the folder named: '2024/*.txt', '**/old/*'.
    What is excluded stays in the corpus if it is there. Hidden files are not read, nor is what
    programs leave behind; files of kinds that are not read are counted.

    Example: longreach ingest book.txt papers/ --corpus library
    """
    from longreach.corpus.documents import Limits, Selection
    from longreach.corpus.schema import check_name
    from longreach.errors import UsageError
    from longreach.session import open as open_session

    # An empty path would mean the current folder, as where a shell variable is not set.
    if not all(path.strip() for path in paths):
        raise UsageError("A PATH is empty: name a file or a folder ('.' is the current one).")
    # Options are checked before torch is imported, so that a typo is refused at once.
    check_name(corpus)
    settings: dict[str, Any] = dict(given_options(context))
    if compressor is not None:
        find_method(compressor).check(settings, flags=True)
    if force and not prune:
        raise UsageError("--force is about --prune: give both, or neither.")
    limits = Limits.parse(limit)
    selection = Selection.of(include, exclude, follow_links)

    # Web addresses are refused by that name.
    sources = [path if "://" in path else Path(path) for path in paths]
    with open_session(
        corpus, store, model, create=True, compressor=compressor, device=device, **settings
    ) as session:
        report = session.add(
            sources,
            prune=prune,
            force=force,
            include=selection.include,
            exclude=selection.exclude,
            follow_links=follow_links,
            limits=limits,
            progress=True,
            batch_size=batch_size,
        )
    skipped = [{"document": item.name, "reason": item.reason} for item in report.skipped]
    if as_json:
        outcomes = {
            key: getattr(report, key) for key in ("added", "replaced", "unchanged", "removed")
        }
        figures = {
            "passages": report.passages,
            "tokens": report.tokens,
            "seconds": round(report.seconds, 3),
        }
        notes = [{"document": name, "notes": notes} for name, notes in report.notes.items()]
        emit(
            {
                "corpus": corpus,
                **outcomes,
                "skipped": skipped,
                "unread": report.unread,
                "notes": notes,
                **figures,
            }
        )
    else:
        words = ("added", "replaced", "unchanged", "removed", "skipped")
        done = ", ".join(
            f"{len(getattr(report, word))} {word}" for word in words if getattr(report, word)
        )
        say(
            f"{corpus}: {done or 'nothing added'}; {counted(report.tokens, 'token')} read in"
            f" {report.seconds:.1f} s."
        )
    for name, sentences in report.notes.items():
        for sentence in sentences:
            note(f"incomplete: {name}: {sentence}")
    if report.unread:
        note(_said_of_kinds(report.unread))
    for item in report.skipped:
        note(f"skipped: {item.reason}")
    # What could be read is in the corpus; the exit code says that not everything could.
    if report.skipped:
        raise typer.Exit(1)


def _said_of_kinds(unread: dict[str, int]) -> str:
    """Counts the files of kinds that are not read in one sentence."""
    total = sum(unread.values())
    counts = []
    for suffix, count in list(unread.items())[:_MOST_KINDS]:
        counts.append(f"{count:,} {suffix or 'without a suffix'}")
    if len(unread) > _MOST_KINDS:
        counts.append(f"{sum(list(unread.values())[_MOST_KINDS:]):,} of other kinds")
    what = (
        "1 file of a kind that is not read"
        if total == 1
        else f"{total:,} files of kinds that are not read"
    )
    return f"not read: {what}: {', '.join(counts)}. Name a file itself to try it as plain text."
