"""What could not be read of a document stays known: in the report, in the corpus, in its export."""

import json
from unittest import mock

import pyarrow as pa
import pytest

from longreach.corpus import store
from longreach.corpus.documents import Document
from longreach.corpus.export import export
from longreach.corpus.rows import MemoryRows
from longreach.corpus.store import Corpus
from longreach.corpus.tables import connect
from tests.corpus.corpus_fakes import FakeCompressor

TEXT = "Call me Ishmael. Some years ago, never mind how long precisely."
PLAIN = Document("plain", "Nothing is missing from this one.")
NOTED = Document("noted", TEXT, ("Page 2 has no text layer.", "A form is not read."))
DOCUMENTS = MemoryRows.documents


class RowsWithoutNotes(MemoryRows):
    documents = pa.schema([field for field in DOCUMENTS if field.name != "notes"])


@pytest.fixture
def corpus(tmp_path):
    return Corpus.create(tmp_path, "c", FakeCompressor())


@pytest.fixture
def old(tmp_path):
    """A corpus whose table of documents was made before there were notes."""
    with mock.patch.object(store, "NEWEST", RowsWithoutNotes()):
        return Corpus.create(tmp_path, "old", FakeCompressor())


def notes(corpus):
    return {document.document: document.notes for document in corpus.documents()}


def columns(corpus):
    return connect(corpus.path).open_table("documents").schema.names


def test_notes_are_reported_and_kept(corpus, tmp_path):
    report = corpus.add([PLAIN, NOTED])
    assert report.notes == {"noted": NOTED.notes}
    assert notes(Corpus.open(tmp_path, "c")) == {"plain": (), "noted": NOTED.notes}
    assert corpus.verify().ok


def test_an_unchanged_document_keeps_its_notes_and_is_said_again(corpus):
    corpus.add([PLAIN, NOTED])
    state = corpus.state()
    report = corpus.add([PLAIN, NOTED])
    assert report.unchanged == ["plain", "noted"] and report.notes == {"noted": NOTED.notes}
    assert corpus.state() == state


@pytest.mark.parametrize("changed", [(), ("Page 3 is broken.",)])
def test_other_notes_on_the_same_text_replace_without_compressing(corpus, changed):
    corpus.add([PLAIN, NOTED])
    before = corpus.compressor.compressed
    report = corpus.add(Document("noted", TEXT, changed))
    assert report.replaced == ["noted"] and report.passages == 0
    assert corpus.compressor.compressed == before
    assert notes(corpus) == {"plain": (), "noted": changed} and corpus.verify().ok
    assert corpus.document_text("noted") == TEXT


def test_equal_texts_share_a_revision_whatever_their_notes(corpus):
    copies = [Document("a", TEXT), NOTED, Document("b", TEXT, ("Another note.",))]
    corpus.add(copies)
    corpus.add(Document("later", TEXT, ("A fourth.",)))
    assert len({document.revision for document in corpus.documents()}) == 1
    assert notes(corpus) == {"a": (), "noted": NOTED.notes, "b": ("Another note.",), "later": ("A fourth.",)}
    assert corpus.verify().ok


def test_removing_keeps_the_notes_of_others(corpus):
    corpus.add([PLAIN, NOTED])
    corpus.remove("plain")
    assert notes(corpus) == {"noted": NOTED.notes} and corpus.verify().ok


def test_a_changed_note_is_found(corpus):
    corpus.add([PLAIN, NOTED])
    table = connect(corpus.path).open_table("documents")
    rows = table.to_arrow().to_pylist()
    for row in rows:
        row["notes"] = None
    with mock.patch("longreach.corpus.integrity.FileLog.check", return_value=[]):
        table.add(pa.Table.from_pylist(rows, schema=DOCUMENTS), mode="overwrite")
        problems = corpus.verify().problems
    assert len(problems) == 1 and "'noted'" in problems[0]


def test_a_table_without_notes_is_read_and_added_to(old):
    old.add([PLAIN, Document("second", "More to read.")])
    assert "notes" not in columns(old) and notes(old) == {"plain": (), "second": ()}
    old.add([PLAIN, Document("third", "Still without notes.")])
    assert "notes" not in columns(old) and old.verify().ok


def test_a_table_without_notes_gets_them_with_the_first(old, tmp_path):
    old.add(PLAIN)
    version = old.versions()[-1].version
    old.add([NOTED, PLAIN])
    assert notes(old) == {"plain": (), "noted": NOTED.notes} and old.verify().ok
    old.rollback(version)
    assert notes(old) == {"plain": ()} and "notes" not in columns(old) and old.verify().ok
    old.add(NOTED)
    assert notes(old) == {"plain": (), "noted": NOTED.notes} and old.verify().ok
    old.compact()
    assert notes(Corpus.open(tmp_path, "old")) == {"plain": (), "noted": NOTED.notes} and old.verify().ok


def test_removing_from_a_table_without_notes(old):
    old.add([PLAIN, Document("second", "More to read.")])
    old.remove("second")
    assert notes(old) == {"plain": ()} and old.verify().ok
    old.add(NOTED)
    assert notes(old)["noted"] == NOTED.notes and old.verify().ok


def test_an_export_holds_them(corpus, tmp_path):
    corpus.add([PLAIN, NOTED])
    assert "documents.jsonl" in export(corpus, tmp_path / "out")
    lines = (tmp_path / "out" / "documents.jsonl").read_text().splitlines()
    assert {row["document"]: row["notes"] for row in map(json.loads, lines)} == {
        "plain": [],
        "noted": list(NOTED.notes),
    }
