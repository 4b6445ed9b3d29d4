"""Damaged artefacts: corpora, models, adapters, compressors, questions, runs.

Of a corpus every damage is found by `verify`, or changes nothing that can be read. What is read is exact or refused,
and an `add` never makes a damaged corpus look whole. Of all else the reader says one sentence, or reads what is usable.
"""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from longreach.corpus.documents import Document
from longreach.corpus.store import Corpus
from longreach.datasets.questions import read_questions
from longreach.datasets.texts import read_texts
from longreach.errors import LongreachError
from longreach.evals.report.report import figures
from longreach.evals.report.runs import read_run
from longreach.models.loading.load import load
from tests.conftest import make_model, make_tokenizer
from tests.corpus.corpus_fakes import FakeCompressor
from tests.evals.run_folders import docqa_run, length_run, perplexity_run
from tests.fuzz.mutation import damaged, damaged_json
from tests.fuzz.tally import Clock, Tally

_TEXTS = {
    "a": "The first document, which is longer than the second. 😀" * 3,
    "b": "The second.",
    "c": "A third one. " * 9,
}
_LATER = Document("d", "Added after the damage.")


def run_corpora(count: int, seed: int, folder: Path) -> Tally:
    """Damages one file of a corpus, `count` times."""
    tally, chance = Tally("damaged corpora"), random.Random(seed)
    whole = folder / "whole"
    corpus = Corpus.create(whole, "c", FakeCompressor())
    for name, text in _TEXTS.items():
        corpus.add(Document(name, text))
    expected = _content(corpus)
    inside = corpus.path
    with corpus.changing("study"):
        (inside / "adapter").mkdir()
        (inside / "adapter" / "adapter_model.safetensors").write_bytes(chance.randbytes(3000))
        (inside / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file() and path.name != ".lock")
    with Clock(tally):
        for number in range(count):
            here = folder / f"copy-{number}"
            shutil.copytree(whole, here)
            name = chance.choice(files)
            what = _damage(here / name, here / chance.choice(files), chance)
            tally.attempt(f"seed {seed}, number {number}: {what} {name}", lambda here=here: _check(here, expected))
            shutil.rmtree(here)
    return tally


def _damage(path: Path, other: Path, chance: random.Random) -> str:
    kind = chance.choice(["flip", "flip", "flip", "gone", "cut", "mixed", "another's", "empty", "longer"])
    raw = path.read_bytes()
    if kind == "gone" or not raw:
        path.unlink()
        return "gone"
    if kind == "flip":
        at = chance.randrange(len(raw))
        raw = raw[:at] + bytes([raw[at] ^ (1 << chance.randrange(8))]) + raw[at + 1 :]
    elif kind == "cut":
        raw = raw[: chance.randrange(len(raw))]
    elif kind == "mixed":
        raw = damaged(raw, other.read_bytes(), chance)
    elif kind == "another's":
        raw = other.read_bytes()
    else:
        raw = b"" if kind == "empty" else raw + chance.randbytes(9)
    path.write_bytes(raw)
    return kind


def _content(corpus: Corpus) -> dict[str, Any]:
    """All that can be read of a corpus."""
    found = {}
    for document in corpus.documents():
        vectors = corpus.vectors(document.revision)
        found[document.document] = (corpus.document_text(document.document), [rows.tolist() for rows in vectors])
    return found


def _check(store: Path, expected: dict[str, Any]) -> str:
    """Returns what became of a damaged corpus, of which only `expected` may be read."""
    found = None
    try:
        corpus = Corpus.open(store, "c", FakeCompressor())
        found = _content(corpus)
    except LongreachError:
        outcome = "refused"
    else:
        if found != expected:
            return "FAILED something else was read"
        outcome = "read exactly"
    intact = Corpus(store / "c", None, None).verify().ok  # type: ignore[arg-type]
    if intact and outcome != "read exactly":
        return f"FAILED verify says that it is whole, and it is {outcome}"
    if intact:
        return "harmless"
    try:
        corpus = Corpus.open(store, "c", FakeCompressor())
        corpus.add(_LATER)
    except LongreachError:
        return f"found by verify, {outcome}, no more is written"
    kept = {name: content for name, content in _content(corpus).items() if name != _LATER.name}
    if corpus.verify().ok and kept != expected:
        return "FAILED after an add the damage is gone from sight"
    return f"found by verify, {outcome}, more is written"


def run_others(count: int, seed: int, folder: Path) -> Tally:
    """Damages the files of models, adapters, questions, texts and runs, `count` times."""
    tally, chance = Tally("damaged models, questions, runs"), random.Random(seed)
    readers = list(_readers(folder / "whole"))
    with Clock(tally):
        for number in range(count):
            source, read = readers[number % len(readers)]
            here = folder / "here"
            shutil.copytree(source, here)
            path = chance.choice(sorted(file for file in here.rglob("*") if file.is_file()))
            text = path.suffix in (".json", ".jsonl") and chance.random() < 0.8
            if text:
                _damage_json(path, chance)
            else:
                path.write_bytes(damaged(path.read_bytes(), b'{"a": [', chance))
            tally.attempt(
                f"seed {seed}, number {number}: {path.relative_to(here)}", lambda here=here, read=read: read(here)
            )
            shutil.rmtree(here)
    return tally


def _damage_json(path: Path, chance: random.Random) -> None:
    """Damages a JSON file, or one line of JSON lines."""
    lines = path.read_text(encoding="utf-8").split("\n") if path.suffix == ".jsonl" else [path.read_text("utf-8")]
    number = chance.choice([n for n, line in enumerate(lines) if line.strip()])
    lines[number] = damaged_json(lines[number], chance)
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))


def _readers(folder: Path) -> Iterator[tuple[Path, Callable[[Path], str]]]:
    """Folders of artefacts, each with what reads it."""
    model, questions, texts = folder / "model", folder / "questions", folder / "texts"
    make_model().save_pretrained(model)
    make_tokenizer().save_pretrained(model)
    yield model, lambda here: _did(load(here, device="cpu"))
    questions.mkdir()
    rows = [{"question": f"What is {n}?", "answers": ["a", "b"], "document": "a"} for n in range(5)]
    (questions / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    yield questions, lambda here: _did(read_questions(here / "questions.jsonl", ["a"], "c"))
    texts.mkdir()
    rows = [{"text": "A text.", "questions": [{"question": "What?", "answer": "A text."}]}] * 4
    (texts / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    yield texts, lambda here: _did(read_texts([here / "texts.jsonl"]))
    for run in (length_run(folder / "lengths"), docqa_run(folder / "docqa"), perplexity_run(folder / "perplexity")):
        yield run, lambda here: _did(figures([read_run(here)], ()))


def _did(value: object) -> str:
    return "read" if value is not None else "FAILED nothing was read"
