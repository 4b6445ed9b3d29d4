"""`longreach ingest`: documents into a corpus."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from longreach.cli.output import DeviceOption, JsonOption, ModelOption, StoreOption, at_least_one, emit, note

if TYPE_CHECKING:
    from longreach.corpus.documents import Skipped


def ingest(
    paths: list[str] = typer.Argument(metavar="PATH", help="Files and folders: txt, md, html, pdf, docx, epub."),
    corpus: str = typer.Option(..., "--corpus", help="The corpus; made where there is none of that name."),
    compressor: str | None = typer.Option(
        None,
        "--compressor",
        help="mean-pool, autocompressor, or a trained one: its name or folder. [default: by the model]",
    ),
    ratio: int | None = typer.Option(
        None,
        "--ratio",
        callback=at_least_one,
        help="Tokens a vector, of mean-pool or of a trained compressor. [default: 30; as trained]",
    ),
    segment_tokens: int | None = typer.Option(
        None,
        "--segment-tokens",
        callback=at_least_one,
        help="Tokens of a passage. [default: 240; autocompressor: 1536]",
    ),
    summary_tokens: int | None = typer.Option(
        None,
        "--summary-tokens",
        callback=at_least_one,
        help="autocompressor: vectors a passage. [default: 50; as trained]",
    ),
    mode: str | None = typer.Option(None, "--mode", help="autocompressor: accumulate, independent or replace."),
    prune: bool = typer.Option(False, "--prune", help="Remove documents whose files under PATH no longer exist."),
    batch_size: int | None = typer.Option(None, "--batch-size", min=1, help="Segments in one forward pass."),
    model: str | None = ModelOption,
    store: Path | None = StoreOption,
    device: str | None = DeviceOption,
    as_json: bool = JsonOption,
) -> None:
    """Read documents once and keep what they become.

    Run it again at any time: unchanged files are left alone, changed ones replaced, and work that was interrupted goes
    on where it stopped. Files that cannot be read are skipped and listed at the end, with exit code 1. Parts of a file
    that cannot be read, such as a scanned page among others, are listed too, and `corpus show` lists them later.

    Example: longreach ingest book.txt papers/ --corpus library
    """
    from longreach.compressors.names import check_mode
    from longreach.compressors.shipped import check_compressor
    from longreach.corpus.schema import AddReport, valid_name
    from longreach.errors import UsageError

    if not all(path.strip() for path in paths):
        raise UsageError("A PATH is empty: name a file or a folder ('.' is the current one).")
    valid_name(corpus)
    if compressor is not None:
        check_compressor(compressor)
    if mode is not None:
        check_mode(mode)

    from longreach.corpus.store import Corpus
    from longreach.workspace import open_or_create, store_folder

    named = {"ratio": ratio, "segment_tokens": segment_tokens, "summary_tokens": summary_tokens, "mode": mode}
    settings: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    folder = store_folder(store)
    sources = [path if "://" in path else Path(path) for path in paths]  # web addresses are refused by that name
    refused = [] if corpus in Corpus.names(folder) else _all_refused(sources)
    if refused:  # a mistyped path makes no empty corpus that holds on to these settings
        report = AddReport(skipped=refused)
    else:
        opened = open_or_create(folder, corpus, model_ref=model, compressor_ref=compressor, device=device, **settings)
        report = opened.corpus.add(sources, prune=prune, progress=True, batch_size=batch_size)
    skipped = [{"document": item.name, "reason": item.reason} for item in report.skipped]
    if as_json:
        outcomes = {key: getattr(report, key) for key in ("added", "replaced", "unchanged", "removed")}
        figures = {"passages": report.passages, "tokens": report.tokens, "seconds": round(report.seconds, 3)}
        notes = [{"document": name, "notes": notes} for name, notes in report.notes.items()]
        emit({"corpus": corpus, **outcomes, "skipped": skipped, "notes": notes, **figures})
    else:
        words = ("added", "replaced", "unchanged", "removed", "skipped")
        done = ", ".join(f"{len(getattr(report, word))} {word}" for word in words if getattr(report, word))
        typer.echo(f"{corpus}: {done or 'nothing added'}; {report.tokens:,} tokens read in {report.seconds:.1f} s.")
    for name, sentences in report.notes.items():
        for sentence in sentences:
            note(f"incomplete: {name}: {sentence}")
    for item in report.skipped:
        note(f"skipped: {item.reason}")
    if report.skipped:
        raise typer.Exit(1)


def _all_refused(sources: list[str | Path]) -> "list[Skipped]":
    """Why nothing of `sources` can be read; empty where one document can."""
    from longreach.corpus.documents import Skipped, read_all

    refused = list[Skipped]()
    for item in read_all(sources):
        if not isinstance(item, Skipped):
            return []
        refused.append(item)
    return refused
