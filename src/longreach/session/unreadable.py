"""Whether one document of a corpus that is to be made can be read.

Imports no torch.
"""

from collections.abc import Sequence
from pathlib import Path

from longreach.corpus.documents import Document, Limits, Selection, Skipped, find, read_all
from longreach.corpus.schema import AddReport

Source = str | Path | Document
"""A file, a folder, a text or a document."""


def explain_unreadable(
    sources: Sequence[Source], selection: Selection, limits: Limits
) -> AddReport | None:
    """Returns why nothing of `sources` can be read; None where one document can."""
    found = find(sources, selection)
    report = AddReport(unread=found.unread)
    for item in read_all(found, limits):
        # One readable document is enough: the corpus will be made, and `add` reads all of them.
        if not isinstance(item, Skipped):
            return None
        report.skipped.append(item)
    return report
