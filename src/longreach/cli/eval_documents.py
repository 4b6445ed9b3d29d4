"""`longreach eval docqa`: which documents, and whose memory of them."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from longreach.cli.output import note

if TYPE_CHECKING:
    from longreach.evals.run.sample import Sample
    from longreach.evals.run.subject import Subject
    from longreach.evals.suites.docqa.suite import DocumentSuite


class OpenedDocuments(NamedTuple):
    """Questions about documents, and the model and memory that they are asked of."""

    samples: "list[Sample]"
    subject: "Subject"


def open_documents(
    suite: "DocumentSuite",
    target: str,
    dtype: str | None,
    store: Path | None,
    device: str | None,
) -> OpenedDocuments:
    """Reads the questions and documents, and then opens the corpus or the model.

    Args:
        suite: Says which documents, and what compresses them.
        target: A corpus of the store, or a model.
        dtype: Of the model.
        store: Where corpora live.
        device: Where the model works.

    Raises:
        UsageError: Questions or documents are missing, or belong to something else.
    """
    from longreach.corpus.place import store_folder
    from longreach.corpus.store import Corpus
    from longreach.errors import UsageError

    place = store_folder(store)
    if target in Corpus.names(place):
        return _open_corpus(suite, target, dtype, place, device)
    if suite.questions is not None and not suite.documents:
        raise UsageError(
            f"There is no corpus '{target}', so what --questions asks about is missing: give"
            " --documents."
        )
    return _open_model(suite, target, dtype, device)


def _open_corpus(
    suite: "DocumentSuite", target: str, dtype: str | None, store: Path, device: str | None
) -> OpenedDocuments:
    from longreach.corpus.store import Corpus
    from longreach.errors import UsageError
    from longreach.evals.run.subject import Subject
    from longreach.session import open_workspace

    if suite.compressor or suite.ratio is not None:
        raise UsageError(f"The corpus '{target}' has its vectors: omit --compressor and --ratio.")
    samples = suite.make_samples(None, note, Corpus.open(store, target))
    opened = open_workspace(store, target, device=device, compressing=False, dtype=dtype)
    subject = Subject(target, opened.model, opened.tokenizer, corpus=opened.corpus)
    return OpenedDocuments(samples, subject)


def _open_model(
    suite: "DocumentSuite", target: str, dtype: str | None, device: str | None
) -> OpenedDocuments:
    from longreach.compressors.registry import default_compressor, make_compressor
    from longreach.evals.run.opening import open_model
    from longreach.evals.run.subject import Subject

    samples = suite.make_samples(None, note)
    opened = open_model(target, dtype, device)
    settings = {"ratio": suite.ratio} if suite.ratio is not None else {}
    compressor = make_compressor(
        suite.compressor or default_compressor(target),
        opened.model,
        opened.tokenizer,
        **settings,
    )
    subject = Subject(opened.name, compressor.model, compressor.tokenizer, compressor=compressor)
    return OpenedDocuments(samples, subject)
