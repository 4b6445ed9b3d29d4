"""Which files of a folder are read: links, litter, kinds that are not read, patterns."""

import os
import socket
from pathlib import Path

import pytest

from longreach.corpus.documents import Document, Selection, Skipped, find, read_all
from longreach.errors import UsageError


@pytest.fixture
def root(tmp_path):
    """A folder beside another one with a file that must not be read."""
    (tmp_path / "outside" / "deep").mkdir(parents=True)
    (tmp_path / "outside" / "secret.txt").write_text("the secret")
    (tmp_path / "outside" / "deep" / "more.md").write_text("more secrets")
    return fill(tmp_path / "docs", "a.txt", "sub/b.txt")


def fill(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}")
    return root


def files(found, root):
    return [item.relative_to(root).as_posix() for item in found if isinstance(item, Path)]


def reasons(found):
    return {Path(item.name).name: item.reason for item in found if isinstance(item, Skipped)}


def chosen(root, **selection):
    return files(find(root, Selection.of(**selection)), root)


# --- links ------------------------------------------------------------------------------------------------------------


def test_a_link_to_a_file_outside_is_not_followed_and_said(root):
    (root / "link.txt").symlink_to(root.parent / "outside" / "secret.txt")
    found = find(root)
    assert files(found, root) == ["a.txt", "sub/b.txt"]
    (reason,) = reasons(found).values()
    assert "link.txt is a link to a file outside the folder" in reason and "--follow-links" in reason
    assert all(isinstance(item, Skipped) or "secret" not in item.text for item in read_all(root))


def test_a_link_to_a_folder_outside_is_not_followed_and_said(root):
    (root / "sub" / "link").symlink_to(root.parent / "outside")
    found = find(root)
    assert files(found, root) == ["a.txt", "sub/b.txt"]
    assert "is a link to a folder, not followed" in reasons(found)["link"]


def test_a_link_through_a_linked_folder_is_outside(root):
    (root / "up").symlink_to("..")
    (root / "link.txt").symlink_to("up/outside/secret.txt")
    assert set(reasons(find(root))) == {"link.txt", "up"}


def test_links_are_followed_on_demand(root):
    (root / "link.txt").symlink_to(root.parent / "outside" / "secret.txt")
    (root / "link").symlink_to(root.parent / "outside" / "deep")
    items = list(read_all(find(root, Selection(follow_links=True))))
    assert {item.text for item in items if isinstance(item, Document)} == {
        "text of a.txt",
        "text of sub/b.txt",
        "the secret",
        "more secrets",
    }


@pytest.mark.parametrize("follow_links", [False, True])
def test_links_inside_the_folder_come_once_and_need_no_word(root, follow_links):
    (root / "0.txt").symlink_to("sub/b.txt")
    (root / "other.md").symlink_to("sub/b.txt")
    (root / "again").symlink_to("sub")
    (root / "sub" / "loop").symlink_to(root)
    (root / "self").symlink_to("self")
    found = find(root, Selection(follow_links=follow_links))
    assert files(found, root) == ["a.txt", "sub/b.txt"] and found.unread == ({"": 1})
    assert reasons(found) == {}


def test_a_link_to_a_file_that_is_named_too_needs_no_word(root):
    secret = root.parent / "outside" / "secret.txt"
    (root / "link.txt").symlink_to(secret)
    for sources in ([root, secret], [secret, root], [root, secret.parent]):
        found = find(sources)
        assert reasons(found) == {} and found.count(secret) == 1


def test_a_link_that_is_named_itself_is_read(root):
    link = root / "link.txt"
    link.symlink_to(root.parent / "outside" / "secret.txt")
    for sources in ([link], [root, link], [link, root]):
        assert [item.text for item in read_all(sources) if "secret" in item.name] == ["the secret"]
    (root.parent / "here").symlink_to(root)
    assert files(find(root.parent / "here"), root) == files(find(root), root)


def test_hard_links_are_files_of_their_own(root):
    os.link(root / "a.txt", root / "c.txt")
    assert files(find(root), root) == ["a.txt", "c.txt", "sub/b.txt"]


def test_a_link_that_leads_nowhere_is_said(root):
    (root / "gone.txt").symlink_to("not-there.txt")
    (root / "circle.txt").symlink_to("circle.txt")
    found = reasons(find(root))
    assert set(found) == {"gone.txt", "circle.txt"} and all("leads nowhere" in reason for reason in found.values())


# --- what is not read -------------------------------------------------------------------------------------------------


def test_litter_is_not_mentioned(root):
    fill(
        root,
        *["~$lease.docx", "Thumbs.db", "desktop.ini", ".DS_Store", "._a.txt", ".~lock.lease.odt#", "lease.txt~"],
        *["~WRL0001.tmp", "sub/thumbs.db", "__MACOSX/a.txt", "__MACOSX/._a.txt", "$RECYCLE.BIN/x.txt", "book.pdf.part"],
        *["#a.txt#", ".git/config.txt", "ehthumbs.db", "DESKTOP.INI", "lost+found/x.txt"],
    )
    found = find(root)
    assert files(found, root) == ["a.txt", "sub/b.txt"]
    assert found.unread == {} and reasons(found) == {}


def test_what_only_looks_like_litter_is_read(root):
    names = ["~/notes.txt", "a~b.txt", "temp.txt", "desktop.ini.txt", "lost+found.md", "#1.md", "MACOSX/x.txt"]
    fill(root, *names)
    assert set(names) <= set(files(find(root), root))


def test_litter_that_is_named_itself_is_tried(root):
    fill(root, "~$lease.docx")
    (item,) = read_all(root / "~$lease.docx")
    assert isinstance(item, Skipped) and "damaged" in item.reason


def test_kinds_that_are_not_read_are_counted(root):
    fill(root, "a.png", "b.PNG", "sub/c.zip", "LICENSE", "old.doc", "d.png")
    found = find([root, root / "sub"])
    assert list(found.unread.items()) == [(".png", 3), ("", 1), (".doc", 1), (".zip", 1)]
    assert reasons(found) == {}
    assert find([root, root / "LICENSE"]).unread == {".png": 3, ".doc": 1, ".zip": 1}


def test_a_folder_of_litter_alone_holds_no_files(tmp_path):
    fill(tmp_path / "d", ".DS_Store", "Thumbs.db")
    assert "holds no files" in reasons(find(tmp_path / "d"))["d"]
    fill(tmp_path / "e", "photo.png")
    assert reasons(find(tmp_path / "e")) == {}


def test_sockets_and_pipes_are_not_opened(root):
    os.mkfifo(root / "pipe.txt")
    os.mkfifo(root / "pipe")
    here = socket.socket(socket.AF_UNIX)
    old = Path.cwd()
    os.chdir(root)  # the path of a socket is short
    try:
        here.bind("s.txt")
    finally:
        os.chdir(old)
        here.close()
    items = list(read_all(root))
    assert len(items) == 4
    assert {Path(item.name).name for item in items if isinstance(item, Skipped)} == {"pipe.txt", "s.txt"}
    assert all("not a regular file" in item.reason for item in items if isinstance(item, Skipped))


# --- patterns ---------------------------------------------------------------------------------------------------------

TREE = ["a.pdf", "a.txt", "drafts/b.txt", "drafts/old/c.txt", "x/drafts/d.txt", "x/old.txt", "x/y/z/e.txt", "öl.txt"]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"include": "*.pdf"}, ["a.pdf"]),
        ({"include": ["*.pdf", "old.txt"]}, ["a.pdf", "x/old.txt"]),
        ({"include": "x/*"}, ["x/drafts/d.txt", "x/old.txt", "x/y/z/e.txt"]),  # a folder stands for what is in it
        ({"include": "x/*.txt"}, ["x/old.txt"]),
        ({"include": "**/y/**"}, ["x/y/z/e.txt"]),
        ({"include": "/a.*"}, ["a.pdf", "a.txt"]),
        ({"include": "ö*"}, ["öl.txt"]),
        ({"include": "*.TXT"}, []),
        ({"exclude": "drafts"}, ["a.pdf", "a.txt", "öl.txt", "x/old.txt", "x/y/z/e.txt"]),
        ({"exclude": "/drafts/"}, ["a.pdf", "a.txt", "öl.txt", "x/drafts/d.txt", "x/old.txt", "x/y/z/e.txt"]),
        ({"exclude": ["*.txt", "!old.txt"]}, ["a.pdf", "x/old.txt"]),
        ({"include": "x/", "exclude": ["e.*", "drafts/"]}, ["x/old.txt"]),
        ({"exclude": "[a-b].*"}, ["drafts/old/c.txt", "öl.txt", "x/drafts/d.txt", "x/old.txt", "x/y/z/e.txt"]),
    ],
)
def test_patterns_choose_files(tmp_path, selection, expected):
    root = fill(tmp_path / "r", *TREE)
    assert sorted(chosen(root, **selection)) == sorted(expected)


def test_what_is_excluded_is_neither_skipped_nor_counted(root):
    fill(root, "photo.png", "sub/photo.png")
    (root / "link.txt").symlink_to(root.parent / "outside" / "secret.txt")
    (root / "link").symlink_to(root.parent / "outside")
    found = find(root, Selection.of(exclude=["*.png", "link*"]))
    assert files(found, root) == ["a.txt", "sub/b.txt"] and found.unread == {} and reasons(found) == {}


def test_a_file_that_is_named_itself_is_read_whatever_the_patterns(root):
    assert find(root / "a.txt", Selection.of(exclude="*")) == [root / "a.txt"]


def test_a_folder_of_which_nothing_is_chosen_is_no_mistake(root):
    found = find(root, Selection.of(include="*.nothing"))
    assert found == [] and found.unread == {}


@pytest.mark.parametrize("pattern", ["", " ", "# a comment", "!", 3])
def test_a_pattern_that_says_nothing_is_refused(pattern):
    with pytest.raises(UsageError, match="pattern"):
        Selection.of(exclude=[pattern])
