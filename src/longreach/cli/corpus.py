"""`longreach corpus`: look at corpora, check them, change them."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from longreach.cli.output import JsonOption, StoreOption, emit, note, say, table
from longreach.cli.study import print_scorecard
from longreach.jsontext import JsonObject
from longreach.wording import counted, printable

if TYPE_CHECKING:
    from longreach.corpus.schema import DocumentInfo, Settings
    from longreach.corpus.store import Corpus
    from longreach.reading.scorecard import Scorecard

_HELP = """Look at corpora, check them, change them.

Example: longreach corpus show library
"""
app = typer.Typer(
    help=_HELP, short_help="Look at corpora, check them, change them.", no_args_is_help=True
)
_NAME = typer.Argument(help="The corpus.")


def _open(store: Path | None, name: str) -> "Corpus":
    from longreach.corpus.place import store_folder
    from longreach.corpus.store import Corpus

    return Corpus.open(store_folder(store), name)


def _open_damaged(store: Path | None, name: str) -> "Corpus":
    """Opens a corpus, also one whose settings are lost, to check, repair or delete it."""
    from longreach.corpus.place import store_folder
    from longreach.corpus.store import Corpus

    return Corpus.open_damaged(store_folder(store), name)


def _count(documents: "list[DocumentInfo]") -> dict[str, int]:
    totals = {"passages": 0, "tokens": 0, "vectors": 0}
    for document in documents:
        for key in totals:
            totals[key] += getattr(document, key)
    return totals


def _load_scorecard(corpus: "Corpus") -> "Scorecard | None":
    """Returns the scorecard of a corpus; without one, nothing that loads models is imported."""
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

    folder = store_folder(store)
    rows: list[dict[str, Any]] = []
    for name in Corpus.names(folder):
        try:
            documents = Corpus.open(folder, name).documents()
        except CorpusError as error:
            # One damaged corpus must not hide the others.
            note(f"longreach: {error}")
            rows.append({"corpus": name, "error": str(error)})
            continue
        rows.append({"corpus": name, "documents": len(documents), **_count(documents)})
    if as_json:
        emit({"store": str(folder), "corpora": rows})
    elif rows:
        keys = ("corpus", "documents", "passages", "tokens", "vectors")
        cells = []
        for row in rows:
            # A damaged corpus has a name but no figures.
            cells.append([row.get(key, "damaged") for key in keys])
        table(keys, cells)
    else:
        say(
            f"There are no corpora in {folder} yet: make one with `longreach ingest PATH --corpus"
            " NAME`."
        )


@app.command()
def show(name: str = _NAME, store: Path | None = StoreOption, as_json: bool = JsonOption) -> None:
    """Show a corpus: its documents, sizes, settings and fingerprints, and how well it answers.

    Below the documents it says which parts of their files could not be read. How well the corpus
    answers is shown where `study` measured it.

    Example: longreach corpus show library --json
    """
    corpus = _open(store, name)
    card = _load_scorecard(corpus)
    documents = corpus.documents()
    if as_json:
        emit(
            {
                "corpus": name,
                "documents": [asdict(document) for document in documents],
                **_count(documents),
                **_describe_settings(corpus.settings),
                "adapter": str(corpus.adapter_path) if corpus.adapter_path else None,
                "scorecard": card.to_dict() if card else None,
            }
        )
        return
    _print_settings(name, corpus.settings)
    cells = []
    for each in documents:
        cells.append((each.document, each.passages, each.tokens, each.vectors, each.added))
    table(("document", "passages", "tokens", "vectors", "added"), cells)
    noted = [document for document in documents if document.notes]
    if noted:
        say("\nWhat could not be read:")
    for document in noted:
        for sentence in document.notes:
            say(printable(f"{document.document}: {sentence}"))
    if card:
        say()
        print_scorecard(card)


def _describe_settings(settings: "Settings") -> JsonObject:
    return {
        "model_ref": settings.model_ref,
        "compressor": settings.compressor,
        "dtype": settings.dtype,
        "dim": settings.dim,
        "created": settings.created,
        "fingerprint": settings.fingerprint,
        "model_fingerprint": settings.model_fingerprint,
    }


def _print_settings(name: str, settings: "Settings") -> None:
    options = dict(settings.compressor)
    method = options.pop("method")
    values = ", ".join(f"{key} {value}" for key, value in options.items())
    # The reference may come from another machine, and must not control the terminal.
    model = printable(settings.model_ref) or "?"
    say(f"{name}: model {model}, compressor {method} ({values})")
    say(
        f"compressor fingerprint {settings.fingerprint}, model fingerprint"
        f" {settings.model_fingerprint}\n"
    )


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

    if documents:
        corpus = _open(store, name)
        removed = corpus.remove(documents)
        left = len(corpus.documents())
        done = (
            f"{name}: {len(removed)} removed, {left} left. `longreach corpus rollback` brings them"
            " back."
        )
    else:
        # A corpus that cannot be opened any more can still be deleted.
        corpus = _open_damaged(store, name)
        # A script has nobody to answer, and would wait for ever.
        may_ask = sys.stdin.isatty() and not as_json
        if not (yes or (may_ask and typer.confirm(f"Delete the whole corpus '{name}'?", err=True))):
            raise UsageError(f"The corpus '{name}' was not deleted: confirm with --yes.")
        corpus.delete()
        done = f"{name}: deleted."
    if as_json:
        emit({"corpus": name, "removed": removed if documents else "all"})
    else:
        say(done)


@app.command()
def verify(name: str = _NAME, store: Path | None = StoreOption, as_json: bool = JsonOption) -> None:
    """Read every stored byte of a corpus and say what is not as it was written; exit code 1 then.

    Example: longreach corpus verify library
    """
    report = _open_damaged(store, name).verify()
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
    # On stderr, where they do not mix with the JSON object.
    for problem in report.problems:
        note(problem)
    # Scripts tell damage by the exit code, once all problems are listed.
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def repair(name: str = _NAME, store: Path | None = StoreOption, as_json: bool = JsonOption) -> None:
    """Rebuild the file log of a damaged corpus, and keep what is proven to be as it was written.

    What could not be kept is listed, with exit code 1: documents that are damaged, earlier
    versions, an adapter.

    Example: longreach corpus repair library
    """
    report = _open_damaged(store, name).repair()
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
        listed = []
        for version in found:
            # JSON has no type for a point in time.
            listed.append(version._asdict() | {"timestamp": version.timestamp.isoformat()})
        emit({"corpus": name, "versions": listed})
    else:
        cells = []
        for version in found:
            cells.append((version.version, version.documents, version.timestamp.isoformat()))
        table(("version", "documents", "written"), cells)


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

    They are corpus.json, documents.jsonl, passages.jsonl, and for each revision one safetensors
    file of vectors.

    Example: longreach corpus export library library-export
    """
    from longreach.corpus.export import export as write

    files = write(_open(store, name), out)
    if as_json:
        emit({"corpus": name, "out": str(out), "files": files})
    else:
        say(f"{name}: {counted(len(files), 'file')} in {out}.")
