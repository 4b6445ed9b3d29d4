"""`longreach ingest`: documents into a corpus."""

from pathlib import Path
from typing import Any

import typer

from longreach.cli.output import DeviceOption, JsonOption, ModelOption, StoreOption, emit, note


def ingest(
    paths: list[Path] = typer.Argument(metavar="PATH...", help="Files and folders: txt, md, html, pdf, docx, epub."),
    corpus: str = typer.Option(..., "--corpus", help="The corpus; made where there is none of that name."),
    compressor: str | None = typer.Option(
        None, "--compressor", help="mean-pool, autocompressor, or the folder of a trained one. [default: mean-pool]"
    ),
    ratio: int | None = typer.Option(None, "--ratio", help="mean-pool: tokens a vector. [default: 30]"),
    segment_tokens: int | None = typer.Option(
        None, "--segment-tokens", help="Tokens of a passage. [default: 240; autocompressor: 1536]"
    ),
    summary_tokens: int | None = typer.Option(
        None, "--summary-tokens", help="autocompressor: vectors a passage. [default: 50]"
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
    on where it stopped. Files that cannot be read are skipped and listed at the end, with exit code 1.

    Example: longreach ingest book.txt papers/ --corpus library
    """
    from longreach.workspace import open_or_create, store_folder

    named = {"ratio": ratio, "segment_tokens": segment_tokens, "summary_tokens": summary_tokens, "mode": mode}
    settings: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    workspace = open_or_create(
        store_folder(store), corpus, model_ref=model, compressor_ref=compressor, device=device, **settings
    )
    report = workspace.corpus.add(paths, prune=prune, progress=True, batch_size=batch_size)
    skipped = [{"document": item.name, "reason": item.reason} for item in report.skipped]
    if as_json:
        outcomes = {key: getattr(report, key) for key in ("added", "replaced", "unchanged", "removed")}
        figures = {"passages": report.passages, "tokens": report.tokens, "seconds": round(report.seconds, 3)}
        emit({"corpus": corpus, **outcomes, "skipped": skipped, **figures})
    else:
        counts = [(report.added, "added"), (report.replaced, "replaced"), (report.unchanged, "unchanged")]
        done = ", ".join(f"{len(names)} {word}" for names, word in [*counts, (report.removed, "removed")] if names)
        typer.echo(f"{corpus}: {done or 'nothing added'}; {report.tokens:,} tokens read in {report.seconds:.1f} s.")
    for item in report.skipped:
        note(f"skipped: {item.reason}")
    if report.skipped:
        raise typer.Exit(1)
