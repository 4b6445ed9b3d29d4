"""What a suite asks of an open corpus."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from longreach.errors import UsageError
from longreach.evals.run.subject import RunOptions, Subject
from longreach.evals.suites.base import Suite
from longreach.evals.suites.docqa.suite import DocumentSuite
from longreach.jsontext import JsonObject
from longreach.training.common.run import refuse_foreign

if TYPE_CHECKING:
    from longreach.session.session import Session


def evaluate_corpus(
    session: "Session", suite: Suite, systems: Sequence[str], options: RunOptions
) -> JsonObject:
    """Asks the model of a session, about the documents of its corpus; see `Session.evaluate`."""
    refuse_foreign(options.out)
    suite.check_systems(systems)
    corpus = session.corpus
    samples = None
    if isinstance(suite, DocumentSuite):
        if suite.compressor or suite.ratio is not None:
            raise UsageError(
                f"The corpus '{session.name}' has its vectors: omit --compressor and --ratio."
            )
        # They may be refused: before a model is loaded for nothing.
        samples = suite.make_samples(None, options.say, corpus)
    subject = Subject(session.name, session.model, session.tokenizer, corpus=corpus)
    return suite.evaluate(subject, systems, options, samples)
