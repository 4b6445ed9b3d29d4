"""What `ingest` says about files: what was missing from them, what was not read, what would be lost."""

import pytest

from longreach.corpus.documents import apart
from longreach.corpus.documents.base import Converted

MISSING = "Page 2 has no text layer."


@pytest.fixture
def scanned(tmp_path, monkeypatch):
    """A file of which one page cannot be read."""
    converted = Converted("The lease begins in May.", (MISSING,))
    monkeypatch.setattr(apart, "convert_apart", lambda *arguments: converted)
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


def test_kinds_that_are_not_read_are_counted_and_no_failure(run, library, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.zip", "LICENSE", "~$x.docx", ".DS_Store", "Thumbs.db"):
        (folder / name).write_bytes(b"\0")
    (folder / "new.txt").write_text("The Dormouse sleeps.")
    plain = run("ingest", folder, "--corpus", "library")
    said = "not read: 4 files of kinds that are not read: 2 .png, 1 without a suffix, 1 .zip."
    assert plain.code == 0 and said in plain.err and "x.docx" not in plain.err
    as_json = run("ingest", folder, "--corpus", "library", "--json")
    assert as_json.code == 0 and as_json.json["unread"] == {".png": 2, "": 1, ".zip": 1}
    assert as_json.json["skipped"] == []


def test_patterns_and_links(run, library, tmp_path):
    folder = tmp_path / "mixed"
    (folder / "drafts").mkdir(parents=True)
    (tmp_path / "outside.txt").write_text("The secret of the Duchess.")
    for name in ("a.txt", "b.md", "drafts/c.txt"):
        (folder / name).write_text(f"The text of {name}.")
    (folder / "link.txt").symlink_to(tmp_path / "outside.txt")
    ingest = ["ingest", folder, "--corpus", "library", "--json"]
    first = run(*ingest, "--include", "*.txt", "--exclude", "drafts", "--exclude", "link*")
    assert first.code == 0 and first.json["added"] == [str(folder / "a.txt")] and first.json["skipped"] == []
    second = run(*ingest)
    assert second.code == 1 and "link.txt is a link to a file outside" in second.err
    assert sorted(second.json["added"]) == [str(folder / "b.md"), str(folder / "drafts" / "c.txt")]
    third = run(*ingest, "--follow-links")
    assert third.code == 0 and third.json["added"] == [str(tmp_path / "outside.txt")]


def test_pruning_an_empty_folder_needs_force(run, wrong, library, texts, tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"This is text {number}.")
    ingest = ["ingest", folder, "--corpus", "library"]
    assert run(*ingest).code == 0
    for number in range(3):
        (folder / f"{number}.txt").unlink()
    wrong(2, ["3 of the 3 documents", folder, "--force"], *ingest, "--prune")
    assert len(run("corpus", "show", "library", "--json").json["documents"]) == 5
    assert len(run(*ingest, "--prune", "--force", "--json").json["removed"]) == 3


def test_limits_are_named_and_can_be_raised(run, wrong, library, tmp_path):
    large = tmp_path / "large.txt"
    with large.open("wb") as file:
        file.truncate(20 << 30)
    small = tmp_path / "small.txt"
    small.write_text("The Dormouse sleeps.")
    ingest = ["ingest", large, small, "--corpus", "library", "--json"]
    result = run(*ingest)
    assert result.code == 1 and result.json["added"] == [str(small)]
    assert "large.txt has 20 GiB, and the limit file_bytes is 512 MiB" in result.err
    small.write_text("The Dormouse sleeps all day.")
    result = run(*ingest, "--limit", "file_bytes=20", "--limit", "seconds=9")
    assert result.json["replaced"] == [] and "small.txt has 28 bytes" in result.err
    wrong(2, ["no limit 'bytes'", "file_bytes"], "ingest", small, "--corpus", "library", "--limit", "bytes=3")
    wrong(2, ["--force", "--prune"], "ingest", small, "--corpus", "library", "--force")
    wrong(2, ["pattern"], "ingest", small, "--corpus", "library", "--include", "")
