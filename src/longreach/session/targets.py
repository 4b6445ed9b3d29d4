"""What an evaluation of documents names: a corpus of the store, or a model that has none yet."""

from collections.abc import Sequence
from pathlib import Path

from longreach.compressors.registry import default_compressor, make_compressor
from longreach.corpus.place import store_folder
from longreach.corpus.store import Corpus
from longreach.errors import UsageError
from longreach.evals.run.opening import open_model
from longreach.evals.run.subject import RunOptions, Subject
from longreach.evals.suites.docqa.suite import DocumentSuite
from longreach.jsontext import JsonObject
from longreach.session.evaluation import evaluate_corpus
from longreach.session.session import open


def evaluate_documents(
    suite: DocumentSuite,
    target: str,
    systems: Sequence[str],
    options: RunOptions,
    *,
    store: Path | None,
    dtype: str | None,
    device: str | None,
) -> JsonObject:
    """Asks about documents: those of a corpus, or others that a model reads for the first time.

    Args:
        suite: Says which documents, and what compresses them.
        target: A corpus of the store, or a model.
        systems: Ways of answering; empty takes the suite's own choice.
        options: How it is run.
        store: Where corpora live.
        dtype: Of the model.
        device: Where the model works.

    Returns:
        What is in scores.json: {"rows": [...]}.

    Raises:
        UsageError: Questions or documents are missing, or belong to something else.
    """
    # A corpus goes before a model of the same name.
    if target in Corpus.names(store_folder(store)):
        with open(target, store, device=device, dtype=dtype) as session:
            return evaluate_corpus(session, suite, systems, options)
    if suite.questions is not None and not suite.documents:
        raise UsageError(
            f"There is no corpus '{target}', so what --questions asks about is missing: give"
            " --documents."
        )
    # Made before the model is loaded, so that damaged questions are refused at once.
    samples = suite.make_samples(None, options.say)
    opened = open_model(target, dtype, device)
    settings = {}
    if suite.ratio is not None:
        settings["ratio"] = suite.ratio
    compressor = make_compressor(
        suite.compressor or default_compressor(target), opened.model, opened.tokenizer, **settings
    )
    subject = Subject(opened.name, compressor.model, compressor.tokenizer, compressor=compressor)
    return suite.evaluate(subject, systems, options, samples)
