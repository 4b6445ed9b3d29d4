"""What `ingest` says about files: what was missing from them, what was not read, what would be lost."""

import pytest

from longreach.corpus.documents import convert
from longreach.corpus.documents.base import Converted

MISSING = "Page 2 has no text layer."


@pytest.fixture
def scanned(tmp_path, monkeypatch):
    """A file of which one page cannot be read."""
    converted = Converted("The lease begins in May.", (MISSING,))
    monkeypatch.setitem(convert._CONVERTERS, ".pdf", lambda raw, name: converted)
    path = tmp_path / "lease.pdf"
    path.write_bytes(b"%PDF-")
    return path


@pytest.mark.parametrize("as_json", [False, True])
def test_what_a_file_lacks_is_said_and_kept(run, library, scanned, as_json):
    result = run("ingest", scanned, "--corpus", "library", *["--json"] * as_json)
    assert result.code == 0 and f"incomplete: {scanned}: {MISSING}" in result.err
    if as_json:
        assert result.json["notes"] == [{"document": str(scanned), "notes": [MISSING]}]
    shown = run("corpus", "show", "library")
    assert f"{scanned}: {MISSING}" in shown.out
    listed = {
        entry["document"]: entry["notes"] for entry in run("corpus", "show", "library", "--json").json["documents"]
    }
    assert listed.pop(str(scanned)) == [MISSING] and set(map(tuple, listed.values())) == {()}


def test_whole_files_have_no_notes(run, library, texts):
    assert run("ingest", texts, "--corpus", "library", "--json").json["notes"] == []
    assert "could not be read" not in run("corpus", "show", "library").out
