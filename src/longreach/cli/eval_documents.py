"""`longreach eval docqa`: which documents, whose vectors, read in which ways."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from longreach.cli.output import note
from longreach.wording import counted

if TYPE_CHECKING:
    from longreach.compressors.base import Compressor
    from longreach.corpus.store import Corpus
    from longreach.evals.run.sample import Sample
    from longreach.evals.suites.choice import Choice
    from longreach.evals.systems.documents import DocumentReader
    from longreach.evals.systems.models import ModelReader, TooLong


_SAID = {
    "cut": "their middle is cut",
    "leave out": "they are left out",
    "read": "they are read all the same",
}


class Options(NamedTuple):
    """The options of docqa; see the command."""

    questions: Path | None
    documents: list[Path]
    compressor: str | None
    ratio: int | None
    adapter: Path | None
    beyond_window: bool
    batch_size: int
    dtype: str | None
    store: Path | None
    device: str | None


class _Opened(NamedTuple):
    """What is read, and by whom; either a corpus or a compressor."""

    samples: "list[Sample]"
    model: Any
    tokenizer: Any
    corpus: "Corpus | None"
    compressor: "Compressor | None"


def read_documents(
    choice: "Choice", target: str, names: tuple[str, ...], out: Path, options: Options
) -> Any:
    """Asks about documents in every way that is named, and returns the scores."""
    from longreach.evals.run.runner import evaluate
    from longreach.evals.suites.choice import default_readers, whole
    from longreach.evals.suites.registry import name_of

    opened = _open(choice, target, options)
    described = opened.compressor.describe() if opened.compressor else {}
    pooled = opened.corpus.settings.compressor if opened.corpus else described
    source = opened.compressor.reader if opened.compressor else None
    adapter = options.adapter or (opened.corpus.adapter_path if opened.corpus else source)
    names = names or default_readers(
        choice.suite, mean_pool=pooled.get("method") == "mean-pool", adapter=adapter is not None
    )
    # Before an adapter lies over the weights that these share.
    models = _whole([name for name in names if whole(name)], opened, options.beyond_window)
    ways = _ways([name for name in names if not whole(name)], opened, adapter)
    in_turn = iter(models), iter(ways)
    readers = [next(in_turn[0]) if whole(name) else next(in_turn[1]) for name in names]
    excess = {
        reader.name: sum(reader.excess(sample) > 0 for sample in opened.samples)
        for reader in models
    }
    for reader in models:
        if excess[reader.name]:
            over = (
                f"{excess[reader.name]} of {counted(len(opened.samples), 'sample')} are longer than"
                " the window"
            )
            note(f"{reader.name}: {over}; {_SAID[reader.too_long]}.")
    settings = {
        "model": name_of(target),
        "compressor": pooled,
        "beyond_window": excess,
    } | choice.settings()
    return evaluate(
        opened.samples,
        readers,
        out,
        suite=choice.suite,
        settings=settings,
        seed=choice.seed,
        batch_size=options.batch_size,
        arguments=sys.argv[1:],
        device=opened.model.device,
        say=note,
    )


def _open(choice: "Choice", target: str, options: Options) -> _Opened:
    from longreach.compressors.registry import default_compressor, make_compressor
    from longreach.corpus.documents import Document
    from longreach.corpus.place import store_folder
    from longreach.corpus.store import Corpus
    from longreach.errors import UsageError
    from longreach.evals.suites.docqa import own_samples, read_documents
    from longreach.evals.suites.registry import samples_of
    from longreach.models.device import check_device
    from longreach.models.loading.load import load
    from longreach.session import open_workspace

    store = store_folder(options.store)
    asked: dict[str, Any] = {
        "samples": choice.samples,
        "seed": choice.seed,
        "max_new_tokens": choice.max_new_tokens,
    }
    if target in Corpus.names(store):
        if options.compressor or options.ratio is not None:
            raise UsageError(
                f"The corpus '{target}' has its vectors: leave --compressor and --ratio out."
            )
        if options.documents or choice.data or options.questions is None:
            raise UsageError(
                f"The documents are those of the corpus '{target}': give --questions FILE, and no"
                " others."
            )
        corpus = Corpus.open(store, target)
        documents = [
            Document(found.document, corpus.document_text(found.document))
            for found in corpus.documents()
        ]
        samples = own_samples(documents, options.questions, about=target, **asked)
        opened = open_workspace(
            store, target, device=options.device, compressing=False, dtype=options.dtype
        )
        return _Opened(samples, opened.model, opened.tokenizer, opened.corpus, None)
    if options.questions is None:
        samples = samples_of(choice, None, note)
    elif options.documents:
        given = read_documents(options.documents)
        for document in given:
            for sentence in document.notes:
                note(f"incomplete: {document.name}: {sentence}")
        samples = own_samples(given, options.questions, **asked)
    else:
        raise UsageError(
            f"There is no corpus '{target}', so what --questions asks about is missing: give"
            " --documents."
        )
    if options.device:
        check_device(options.device)
    model, tokenizer = load(target, device=options.device, dtype=options.dtype)
    settings = {"ratio": options.ratio} if options.ratio is not None else {}
    made = make_compressor(
        options.compressor or default_compressor(target), model, tokenizer, **settings
    )
    return _Opened(samples, made.model, made.tokenizer, None, made)


def _whole(names: list[str], opened: _Opened, beyond: bool) -> "list[ModelReader]":
    """Readers of whole documents: of LongBench the middle is cut, as is its rule; others have to
    fit to be read."""
    from longreach.evals.suites.docqa import LONGBENCH
    from longreach.evals.suites.registry import whole_readers

    all_cut = all(sample.task.startswith(LONGBENCH) for sample in opened.samples)
    too_long: TooLong = "read" if beyond else "cut" if all_cut else "leave out"
    return whole_readers(names, opened.model, opened.tokenizer, too_long)


def _ways(names: list[str], opened: _Opened, adapter: Path | None) -> "list[DocumentReader]":
    """Readers of parts and of vectors; mean pooling has a corpus of its own where the other is not
    made so."""
    from longreach.compressors.mean_pool import MeanPool
    from longreach.evals.suites.choice import MEAN_POOL
    from longreach.evals.systems.documents import DocumentReader, Library

    if not names:
        return []
    samples, model, tokenizer, corpus, compressor = opened
    library = Library(
        samples, model, tokenizer, compressor=compressor, corpus=corpus, adapter=adapter
    )
    settings = compressor.describe() if compressor else corpus.settings.compressor if corpus else {}
    pooled = library
    if MEAN_POOL in names and settings["method"] != MeanPool.method:
        ratio = settings.get("ratio") or round(
            settings["segment_tokens"] / settings["summary_tokens"]
        )
        pooled = Library(samples, model, tokenizer, compressor=MeanPool(model, tokenizer, ratio))
    return [DocumentReader(name, pooled if name == MEAN_POOL else library) for name in names]
