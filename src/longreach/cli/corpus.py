"""`longreach corpus`: look at corpora, check them, change them."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from longreach.cli.output import JsonOption, StoreOption, emit, note, say, table
from longreach.cli.study import print_scorecard
from longreach.wording import counted, printable

_HELP = """Look at corpora, check them, change them.

Example: longreach corpus show library
"""
app = typer.Typer(
    help=_HELP, short_help="Look at corpora, check them, change them.", no_args_is_help=True
)
_NAME = typer.Argument(help="The corpus.")


def _open(store: Path | None, name: str, *, damaged_too: bool = False) -> Any:
    """Opens a corpus; with `damaged_too` also one whose settings are lost, to be checked or
    deleted."""
    from longreach.corpus.place import store_folder
    from longreach.corpus.store import Corpus

    open_corpus = Corpus.open_damaged if damaged_too else Corpus.open
    return open_corpus(store_folder(store), name)


def _totals(documents: list[Any]) -> dict[str, int]:
    return {
        key: sum(getattr(d, key) for d in documents) for key in ("passages", "tokens", "vectors")
    }


def _scorecard(corpus: Any) -> Any:
    """The scorecard of a corpus; where there is none, nothing that loads models is imported."""
    from longreach.corpus.schema import SCORECARD

    if not corpus.artefacts.has(SCORECARD):
        return None
    from longreach.reading.scorecard import Scorecard

    return Scorecard.load(corpus.artefacts)


@app.command("ls")
def list_corpora(store: Path | None = StoreOption, as_json: bool = JsonOption) -> None:
    """List the corpora of the store.

    Example: longreach corpus ls
    """
    from longreach.corpus.place import store_folder
    from longreach.corpus.store import Corpus
    from longreach.errors import CorpusError

    folder, rows = store_folder(store), list[dict[str, Any]]()
    for name in Corpus.names(folder):
        try:
            documents = Corpus.open(folder, name).documents()
        except CorpusError as error:
            note(f"longreach: {error}")
            rows.append({"corpus": name, "error": str(error)})
            continue
        totals = _totals(documents)
        rows.append({"corpus": name, "documents": len(documents), **totals})
    if as_json:
        emit({"store": str(folder), "corpora": rows})
    elif rows:
        keys = ("corpus", "documents", "passages", "tokens", "vectors")
        table(keys, [[row.get(key, "damaged") for key in keys] for row in rows])
    else:
        say(
            f"There are no corpora in {folder} yet: make one with `longreach ingest PATH --corpus"
            " NAME`."
        )


@app.command()
def show(name: str = _NAME, store: Path | None = StoreOption, as_json: bool = JsonOption) -> None:
    """Show a corpus: its documents, sizes, settings and fingerprints, and how well it answers where
    that was measured.

    Below the documents it says which parts of their files could not be read.

    Example: longreach corpus show library --json
    """
    corpus = _open(store, name)
    card = _scorecard(corpus)
    documents, settings = corpus.documents(), corpus.settings
    totals = _totals(documents)
    if as_json:
        about = {
            key: getattr(settings, key)
            for key in ("model_ref", "compressor", "dtype", "dim", "created")
        }
        prints = {
            "fingerprint": settings.fingerprint,
            "model_fingerprint": settings.model_fingerprint,
        }
        listed = [asdict(document) for document in documents]
        adapter = str(corpus.adapter_path) if corpus.adapter_path else None
        scores = card.to_dict() if card else None
        emit(
            {
                "corpus": name,
                "documents": listed,
                **totals,
                **about,
                **prints,
                "adapter": adapter,
                "scorecard": scores,
            }
        )
        return
    method, *values = (
        str(value) if key == "method" else f"{key} {value}"
        for key, value in settings.compressor.items()
    )
    say(
        f"{name}: model {printable(settings.model_ref) or '?'}, compressor {method}"
        f" ({', '.join(values)})"
    )
    say(
        f"compressor fingerprint {settings.fingerprint}, model fingerprint"
        f" {settings.model_fingerprint}\n"
    )
    table(
        ("document", "passages", "tokens", "vectors", "added"),
        [(d.document, d.passages, d.tokens, d.vectors, d.added) for d in documents],
    )
    noted = [document for document in documents if document.notes]
    if noted:
        say("\nWhat could not be read:")
    for document in noted:
        for sentence in document.notes:
            say(printable(f"{document.document}: {sentence}"))
    if card:
        say()
        print_scorecard(card)


@app.command("rm")
def remove(
    name: str = _NAME,
    documents: list[str] = typer.Argument(
        None,
        metavar="[DOCUMENT]...",
        help="Names, or ends of their paths; none means the whole corpus.",
    ),
    yes: bool = typer.Option(False, "--yes", help="Delete a whole corpus without asking."),
    store: Path | None = StoreOption,
    as_json: bool = JsonOption,
) -> None:
    """Remove documents from a corpus, or the whole corpus.

    Removed documents stay in earlier versions until `corpus compact`.

    Example: longreach corpus rm library old.txt
    """
    from longreach.errors import UsageError

    corpus = _open(store, name, damaged_too=not documents)
    if documents:
        names = corpus.remove(documents)
        left = len(corpus.documents())
        done = (
            f"{name}: {len(names)} removed, {left} left. `longreach corpus rollback` brings them"
            " back."
        )
    else:
        may_ask = sys.stdin.isatty() and not as_json
        if not (yes or (may_ask and typer.confirm(f"Delete the whole corpus '{name}'?", err=True))):
            raise UsageError(f"The corpus '{name}' was not deleted: confirm with --yes.")
        corpus.delete()
        done = f"{name}: deleted."
    if as_json:
        emit({"corpus": name, "removed": names if documents else "all"})
    else:
        say(done)


@app.command()
def verify(name: str = _NAME, store: Path | None = StoreOption, as_json: bool = JsonOption) -> None:
    """Read every stored byte of a corpus and say what is not as it was written; exit code 1 then.

    Example: longreach corpus verify library
    """
    report = _open(store, name, damaged_too=True).verify()
    if as_json:
        figures = {
            "documents": report.documents,
            "passages": report.passages,
            "files": report.files,
        }
        emit({"corpus": name, "ok": report.ok, "problems": report.problems, **figures})
    elif report.ok:
        say(
            f"{name}: {counted(report.documents, 'document')},"
            f" {counted(report.passages, 'passage')}, {counted(report.files, 'file')}: all intact."
        )
    for problem in report.problems:
        note(problem)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def repair(name: str = _NAME, store: Path | None = StoreOption, as_json: bool = JsonOption) -> None:
    """Rebuild the file log of a damaged corpus, and keep all that is proven to be as it was
    written.

    What could not be kept is listed, with exit code 1: documents that are damaged, earlier
    versions, an adapter.

    Example: longreach corpus repair library
    """
    report = _open(store, name, damaged_too=True).repair()
    if as_json:
        emit({"corpus": name, "documents": report.documents, "lost": report.lost})
    else:
        say(f"{name}: repaired, {counted(report.documents, 'document')}.")
    for sentence in report.lost:
        note(sentence)
    if report.lost:
        raise typer.Exit(1)


@app.command()
def versions(
    name: str = _NAME, store: Path | None = StoreOption, as_json: bool = JsonOption
) -> None:
    """List the states a corpus can be rolled back to.

    Example: longreach corpus versions library
    """
    found = _open(store, name).versions()
    if as_json:
        emit(
            {
                "corpus": name,
                "versions": [{**v._asdict(), "timestamp": v.timestamp.isoformat()} for v in found],
            }
        )
    else:
        table(
            ("version", "documents", "written"),
            [(v.version, v.documents, v.timestamp.isoformat()) for v in found],
        )


@app.command()
def rollback(
    name: str = _NAME,
    version: int = typer.Argument(help="A number that `corpus versions` lists."),
    store: Path | None = StoreOption,
    as_json: bool = JsonOption,
) -> None:
    """Make a corpus what it was in an earlier version; that is a new version, so it can be undone.

    Example: longreach corpus rollback library 3
    """
    corpus = _open(store, name)
    corpus.rollback(version)
    documents = len(corpus.documents())
    if as_json:
        emit({"corpus": name, "version": version, "documents": documents})
    else:
        say(f"{name}: as in version {version}, {counted(documents, 'document')}.")


@app.command()
def compact(
    name: str = _NAME, store: Path | None = StoreOption, as_json: bool = JsonOption
) -> None:
    """Free the space of removed and replaced documents; earlier versions are gone then.

    Example: longreach corpus compact library
    """
    corpus = _open(store, name)
    corpus.compact()
    documents = len(corpus.documents())
    if as_json:
        emit({"corpus": name, "documents": documents})
    else:
        say(f"{name}: compacted, {counted(documents, 'document')}.")


@app.command()
def export(
    name: str = _NAME,
    out: Path = typer.Argument(help="A folder that does not exist yet."),
    store: Path | None = StoreOption,
    as_json: bool = JsonOption,
) -> None:
    """Write a corpus as plain files.

    They are corpus.json, documents.jsonl, passages.jsonl, and one safetensors file of vectors a
    revision.

    Example: longreach corpus export library library-export
    """
    from longreach.corpus.export import export as write

    files = write(_open(store, name), out)
    if as_json:
        emit({"corpus": name, "out": str(out), "files": files})
    else:
        say(f"{name}: {counted(len(files), 'file')} in {out}.")
