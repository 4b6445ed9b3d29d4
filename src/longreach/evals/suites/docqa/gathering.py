"""Where the questions of docqa come from: published data, or a user's own questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from longreach.corpus.documents import Document
from longreach.errors import UsageError
from longreach.evals.run.sample import Sample
from longreach.evals.suites.docqa.presets import LONGBENCH, PRESETS
from longreach.evals.suites.docqa.samples import own_samples, preset_samples, read_documents

if TYPE_CHECKING:
    from longreach.corpus.store import Corpus
    from longreach.evals.suites.docqa.suite import DocumentSuite

_PREFIX = f"{LONGBENCH}-"


def gather_samples(
    suite: DocumentSuite, say: Callable[[str], None], corpus: Corpus | None = None
) -> list[Sample]:
    """Returns the samples that the options of docqa choose; see `DocumentSuite.make_samples`."""
    if corpus is None and suite.questions is None:
        return _gather_published(suite)
    if corpus is not None and (suite.documents or suite.data or suite.questions is None):
        raise UsageError(
            f"The documents are those of the corpus '{corpus.name}': give --questions FILE, and no"
            " others."
        )
    assert suite.questions is not None
    about = ""
    if corpus is not None:
        about = corpus.name
        documents = list(_read_corpus(corpus))
    else:
        documents = read_documents(suite.documents)
        for document in documents:
            # What of a document could not be read may hold the answer.
            for sentence in document.notes:
                say(f"incomplete: {document.name}: {sentence}")
    return own_samples(
        documents,
        suite.questions,
        about=about,
        samples=suite.samples,
        seed=suite.seed,
        max_new_tokens=suite.max_new_tokens,
    )


def _read_corpus(corpus: Corpus) -> Iterator[Document]:
    for found in corpus.documents():
        yield Document(found.document, corpus.document_text(found.document))


def _gather_published(suite: DocumentSuite) -> list[Sample]:
    found = list[Sample]()
    for task, given in _choose_presets(suite):
        found += preset_samples(
            task,
            given,
            split=suite.split,
            samples=suite.samples,
            seed=suite.seed,
            max_new_tokens=suite.max_new_tokens,
        )
    return found


def _choose_presets(suite: DocumentSuite) -> list[tuple[str, str]]:
    """Returns the presets that are asked, with their data."""
    found = list[tuple[str, str]]()
    # Without names, every preset is asked whose data were given.
    for task in suite.tasks or PRESETS:
        given = _data_of(task, suite)
        if given is not None:
            found.append((task, given))
        # A task that was asked for by name is not skipped silently.
        elif suite.tasks:
            name = LONGBENCH if task.startswith(_PREFIX) else task
            raise UsageError(f"The task {task} needs its data: give --data {name}=PATH.")
    if not found:
        raise UsageError(
            "Questions about documents come from data or from a file: give --data PRESET=PATH, or"
            " --questions FILE with --documents PATH."
        )
    return found


def _data_of(task: str, suite: DocumentSuite) -> str | None:
    own = suite.data.get(task)
    if own is None and task.startswith(_PREFIX):
        return suite.data.get(LONGBENCH)
    return own
