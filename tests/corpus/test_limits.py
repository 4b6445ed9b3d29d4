"""No file uses up the machine or stops the others: sizes, bombs, time, memory, and the processes that convert."""

import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from longreach.corpus.documents import (
    Document,
    Format,
    Limits,
    Skipped,
    apart,
    read_all,
    register,
    unregister,
    worker,
)
from longreach.corpus.documents import convert as formats
from longreach.corpus.documents.archive import open_archive
from longreach.corpus.documents.limits import apply_limits, format_bytes, get_limits
from longreach.errors import DocumentError, UsageError
from tests.corpus.test_documents import LINE, OPF, make_docx, make_epub

GIB = 1 << 30
PAGE = f"<p>{LINE}</p>"


def refusal(path, limits=None):
    with pytest.raises(DocumentError) as caught:
        formats.read(path, limits)
    sentence = str(caught.value)
    assert path.name in sentence and ": " in sentence and sentence.endswith(".") and "\n" not in sentence
    return sentence


def page(folder, text=PAGE, name="a.html"):
    path = folder / name
    path.write_text(text)
    return path


def add_part(path, name, mebibytes):
    """Puts a part of zeros into an archive, which packs a thousandfold."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w", force_zip64=True) as part:
        for _ in range(mebibytes):
            part.write(bytes(1 << 20))
    return path


STUB = """
import os, time
from longreach.corpus.documents import Converted

def run(raw, name):
    return Converted(*eval(raw.decode()))
"""


@pytest.fixture
def stubs(monkeypatch, tmp_path):
    """Converters of this test's own, for workers: what is in the file is run."""
    stub = tmp_path / "stubs"
    stub.mkdir()
    (stub / "stubbed.py").write_text(STUB)
    monkeypatch.syspath_prepend(str(stub))
    sys.modules.pop("stubbed", None)
    stubbed = Format("stub", (".run",), "stubbed:run")
    register(stubbed)
    apart.close()
    yield lambda text, name="a.run": page(tmp_path, text, name)
    apart.close()
    unregister(stubbed)


def workers():
    """The processes that this one started and has not waited for."""
    found = []
    for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        try:
            is_worker = b"worker" in Path(f"/proc/{child}/cmdline").read_bytes()
            if is_worker or "Z" in Path(f"/proc/{child}/stat").read_text():
                found.append(int(child))
        except FileNotFoundError:
            continue
    return found


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.txt", "a.pdf", "a.docx", "a"])
def test_a_file_too_large_is_skipped_unread_and_the_others_are_read(tmp_path, name):
    with (tmp_path / name).open("wb") as file:
        file.truncate(20 * GIB)
    (tmp_path / "z.txt").write_text("small")
    began = time.monotonic()
    large, small = read_all([tmp_path / name, tmp_path / "z.txt"])
    assert isinstance(large, Skipped) and large.name == str(tmp_path / name)
    assert f"{name} has 20 GiB, and the limit file_bytes is 512 MiB" in large.reason and "--limit" in large.reason
    assert isinstance(small, Document) and small.text == "small"
    assert time.monotonic() - began < 60


def test_limits_are_exact(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("é" * 10)
    assert formats.read(path, Limits(file_bytes=20, text_characters=10)).text == "é" * 10
    assert "has 20 bytes, and the limit file_bytes is 19 bytes" in refusal(path, Limits(file_bytes=19))
    assert "10 characters, and the limit text_characters is 9" in refusal(path, Limits(text_characters=9))


def test_a_file_that_hides_its_size_is_read_no_further(monkeypatch):
    path = Path("/proc/self/smaps")
    if not path.exists():
        pytest.skip("only Linux has such files")
    assert path.stat().st_size == 0
    assert "more than 1 KiB" in refusal(path, Limits(file_bytes=1 << 10))


def test_long_texts_of_pages_are_refused(tmp_path):
    path = page(tmp_path, "<p>" + "x" * 5000)
    assert "5,000 characters" in refusal(path, Limits(text_characters=4999))
    assert len(formats.read(path, Limits(text_characters=5000)).text) == 5000


# --- archives ---------------------------------------------------------------------------------------------------------


def test_a_part_that_unpacks_to_too_much_is_refused(tmp_path):
    path = make_epub(tmp_path / "a.epub", body=PAGE.encode())
    add_part(path, "big.xhtml", 40)
    raw = path.read_bytes()
    assert len(raw) < 100_000
    with apply_limits(Limits(unpacked_bytes=40 << 20)), open_archive(raw, "a.epub", ".epub") as archive:
        assert len(archive.read("big.xhtml")) == 40 << 20
    with pytest.raises(DocumentError, match=r"unpacks to more.*unpacked_bytes"):
        unpack(raw, "big.xhtml", (40 << 20) - 1)


def unpack(raw, member, unpacked_bytes, times=1):
    with apply_limits(Limits(unpacked_bytes=unpacked_bytes)), open_archive(raw, "a.epub", ".epub") as archive:
        for _ in range(times):
            archive.read(member)


def test_parts_that_are_read_again_count_again(tmp_path):
    raw = add_part(make_epub(tmp_path / "a.epub"), "one", 1).read_bytes()
    unpack(raw, "one", 5 << 20, times=5)
    with pytest.raises(DocumentError, match="unpacked_bytes"):
        unpack(raw, "one", 5 << 20, times=6)


@pytest.mark.parametrize(("make", "name"), [(make_docx, "a.docx"), (make_epub, "a.epub")])
def test_parts_that_nobody_reads_cost_nothing(tmp_path, make, name):
    path = add_part(make(tmp_path / name), "unused.bin", 30)
    assert LINE in formats.read(path, Limits(unpacked_bytes=1 << 20)).text


def test_headers_that_lie_about_sizes_hide_nothing(tmp_path):
    path = add_part(make_epub(tmp_path / "a.epub"), "big.xhtml", 8)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"PK\x01\x02", raw.rindex(b"a.xhtml"))  # the entry of the big part in the central directory
    for claimed in (1000, 0xFFFFFFF0):
        struct.pack_into("<I", raw, at + 24, claimed)
        with pytest.raises(DocumentError):
            unpack(bytes(raw), "big.xhtml", 4 << 20)


def test_many_members_are_refused(tmp_path):
    path = make_docx(tmp_path / "a.docx")
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(50):
            archive.writestr(f"word/media/{number}.png", b"")
        members = len(archive.namelist())
    assert LINE in formats.read(path, Limits(members=members)).text
    assert f"{members} parts, and the limit members is {members - 1}" in refusal(path, Limits(members=members - 1))


def test_an_epub_that_names_a_page_thousands_of_times_ends(tmp_path):
    path = tmp_path / "a.epub"
    spine = '<itemref idref="a"/>'
    make_epub(path, body=PAGE.encode() * 2000)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.epub", "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            text = OPF.replace(spine, spine * 10_000) if member == "b.opf" else old.read(member)
            new.writestr(member, text)
    sentence = ""
    try:
        assert LINE in formats.read(tmp_path / "b.epub", Limits(seconds=3)).text
    except DocumentError as error:
        sentence = str(error)
    assert not sentence or "limit" in sentence


# --- time, memory, crashes --------------------------------------------------------------------------------------------


def test_what_takes_too_long_is_ended_and_the_next_file_is_read(stubs, tmp_path):
    path = stubs("(time.sleep(600),)")
    sentence = refusal(path, Limits(seconds=1))
    assert "takes too long" in sentence and "the limit seconds is 1 s" in sentence
    assert LINE in formats.read(page(tmp_path)).text


def test_a_busy_converter_is_ended(stubs):
    assert "the limit seconds is 1 s" in refusal(stubs("(sum(iter(int, 1)),)"), Limits(seconds=1))


def test_what_needs_too_much_memory_is_refused_and_the_next_file_is_read(stubs, tmp_path):
    limits = Limits(memory_bytes=400 << 20)
    for text in ("('x' * (1 << 30),)", "(str([bytes(1 << 20) for _ in range(2000)]),)"):
        sentence = refusal(stubs(text), limits)
        assert "needs too much memory" in sentence and "the limit memory_bytes is 400 MiB" in sentence
        assert LINE in formats.read(page(tmp_path), limits).text


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("(os._exit(3),)", "crash (exit code 3)"),
        ("(os.abort(),)", "crash (signal 6)"),
        ("(os.kill(os.getpid(), 11),)", "crash (signal 11)"),
        ("(os.kill(os.getpid(), 9),)", "memory_bytes"),
        ("((lambda f: f(f))(lambda f: f(f)),)", "too deeply"),
        ("(1 / 0,)", "is damaged"),
    ],
)
def test_a_converter_that_breaks_off_is_one_sentence(stubs, tmp_path, code, words):
    assert words in refusal(stubs(code))
    assert LINE in formats.read(page(tmp_path)).text


def test_what_converters_print_is_no_answer(stubs, capfd):
    code = "(print('x', flush=True) or os.write(1, b'{}') and os.write(2, b'{}') and 'text',)"
    assert formats.read(stubs(code)).text == "text"
    assert capfd.readouterr() == ("", "")


def test_notes_come_through_and_are_bounded(stubs):
    assert formats.read(stubs("('text', ('Page 2: é\\nnone.', 'Two.'))")).notes == ("Page 2: é\nnone.", "Two.")
    notes = formats.read(stubs("('text', tuple('x' * 5000 for _ in range(70_000)))")).notes
    assert len(notes) == 101 and "69,900 more" in notes[-1] and max(map(len, notes)) == 1000


def test_half_characters_come_through_and_are_refused(stubs):
    assert "half characters" in refusal(stubs("('a\\ud800b',)"))


NO_ANSWERS = [
    b"",
    b"[]",
    b"{}",
    b"x" * 99,
    b"[" * 99_999,
    b'{"error": null, "notes": [], "size": -1, "last": false}',
    b'{"error": null, "notes": [], "size": true, "last": false}',
    b'{"error": 3, "notes": [], "size": 0, "last": false}',
    b'{"error": null, "notes": [3], "size": 0, "last": true}',
    b'{"error": null, "notes": "ab", "size": 0}',
]


@pytest.mark.parametrize("line", NO_ANSWERS)
def test_an_answer_that_is_none_is_refused(line):
    with pytest.raises((ValueError, RecursionError)):
        worker.WorkerAnswer.parse(line)


def test_answers_and_requests_come_back_as_they_were():
    html = Format("HTML", (".html", ".htm"), "package.module:convert")
    request = worker.WorkerRequest("a\udcff\n", html, 3, Limits(seconds=7))
    assert worker.WorkerRequest.parse(request.to_line()) == request and request.to_line().count(b"\n") == 1
    answer = worker.WorkerAnswer(None, ("é\n",), 5, True)
    assert worker.WorkerAnswer.parse(answer.to_line()) == answer


# --- the processes ----------------------------------------------------------------------------------------------------


def started(monkeypatch):
    count = []
    real = subprocess.Popen

    def counted(*arguments, **options):
        count.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", counted)
    return count


def test_one_process_converts_many_files_and_ends_with_them(tmp_path, monkeypatch):
    apart.close()
    count = started(monkeypatch)
    paths = [page(tmp_path, name=f"{number}.html") for number in range(20)]
    assert [item.text for item in read_all(paths)] == [LINE] * 20
    assert len(count) == 1 and workers() == []


def test_plain_text_needs_no_process(tmp_path, monkeypatch):
    apart.close()
    count = started(monkeypatch)
    for name, raw in (("a.txt", LINE.encode()), ("b.md", "é\ufeff".encode()), ("c.org", b"x" * 1_000_000)):
        (tmp_path / name).write_bytes(raw)
    assert len([item for item in read_all(tmp_path) if isinstance(item, Document)]) == 3
    assert not count


def test_threads_get_processes_of_their_own(tmp_path):
    paths = [page(tmp_path, f"<p>page {number}</p>", f"{number}.html") for number in range(8)]
    found = {}

    def read_some(first):
        for path in paths[first::2]:
            found[path.stem] = formats.read(path).text

    threads = [threading.Thread(target=read_some, args=[first]) for first in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {str(number): f"page {number}" for number in range(8)}
    apart.close()
    assert workers() == []


def test_a_worker_that_was_killed_while_it_waited_is_replaced(tmp_path):
    path = page(tmp_path)
    assert formats.read(path).text == LINE
    for pid in workers():
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    assert formats.read(path).text == LINE


SCRIPT = """
import sys, os
from pathlib import Path
from longreach.corpus.documents import read_all
print([item.text for item in read_all(Path(sys.argv[1]))])
"""


@pytest.mark.parametrize("how", ["-c", "stdin", "file"])
def test_any_kind_of_script_can_read(tmp_path, how):
    folder = tmp_path / "in"
    folder.mkdir()
    page(folder)
    (tmp_path / "json.py").write_text("raise SystemExit('the json of a stranger')")
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "json.py").write_text("raise SystemExit('the json of a stranger')")
    arguments = {"-c": ["-P", "-c", SCRIPT], "stdin": ["-P", "-"], "file": ["-P", str(tmp_path / "script.py")]}[how]
    done = subprocess.run(
        [sys.executable, *arguments, str(folder)],
        input=SCRIPT if how == "stdin" else None,
        capture_output=True,
        text=True,
        cwd=tmp_path / "elsewhere",
    )
    assert done.stdout.strip() == repr([LINE]) and not done.stderr


def test_ctrl_c_ends_the_conversion_and_leaves_nothing(stubs, tmp_path):
    path = stubs("(time.sleep(600),)")
    timer = threading.Timer(1.0, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        formats.read(path)
    assert workers() == []
    assert formats.read(page(tmp_path)).text == LINE


def test_a_worker_ends_with_the_process_that_was_killed(tmp_path):
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from longreach.corpus.documents import apart, convert\n"
        "convert.read(Path(sys.argv[1]))\n"
        "print(apart._POOL._idle[0]._process.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, page(tmp_path)], capture_output=True, text=True)
    pid = int(done.stdout)
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                break
        except FileNotFoundError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the worker is still there")


def test_a_worker_never_imports_torch(stubs):
    code = "(str([m for m in ('torch', 'transformers', 'lancedb') if m in __import__('sys').modules]),)"
    assert formats.read(stubs(code)).text == "[]"


def test_a_worker_that_cannot_start_is_one_sentence(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(24, "Too many open files")

    apart.close()
    monkeypatch.setattr(subprocess, "Popen", fail)
    assert "does not start (Too many open files)" in refusal(page(tmp_path))


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "9", None, 2**70])
def test_impossible_limits_are_refused(value):
    with pytest.raises(UsageError, match="limit seconds"):
        Limits(seconds=value)


def test_limits_are_parsed():
    assert Limits.parse([]) == Limits()
    assert Limits.parse(["seconds=300", "file_bytes=1.5GiB"]) == Limits(seconds=300, file_bytes=3 * GIB // 2)
    assert Limits.parse(["memory_bytes=500 MB"]).memory_bytes == 500_000_000
    assert Limits.parse(["members=7", "members=8"]).members == 8


@pytest.mark.parametrize(
    "text", ["", "x=3", "seconds", "seconds=", "seconds=1MB", "seconds=-1", "file_bytes=1TB", "seconds=0"]
)
def test_wrong_limits_are_refused(text):
    with pytest.raises(UsageError, match="limit"):
        Limits.parse([text])


def test_limits_hold_where_they_are_apply_limits():
    with apply_limits(Limits(members=3)):
        assert get_limits().members == 3
    assert get_limits() == Limits()


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1,023 bytes"), (1024, "1 KiB"), (1_500_000, "1.4 MiB"), (20 * GIB, "20 GiB")],
)
def test_sizes_are_written_for_people(count, text):
    assert format_bytes(count) == text
