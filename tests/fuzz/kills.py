"""SIGKILL at any moment of every kind of write: what is there is whole, and the same work done again ends the same."""

import contextlib
import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from longreach.corpus.documents import Document
from longreach.corpus.store import Corpus
from tests.corpus.corpus_fakes import FakeCompressor, dump
from tests.fuzz.tally import Clock, Tally

_FIRST = [Document("a", "The first document is not long, but longer than the second. 😀"), Document("b", "The second.")]
_THEN = [Document("a", "The first document, written anew and longer than before."), Document("c", "A third one.")]
_KILLS_A_STORE = 25


def add(root: Path) -> None:
    """Makes the corpus where it is not there, and adds to it."""
    _open(root, "c").add(_FIRST)


def replace(root: Path) -> None:
    """Replaces one document and adds another."""
    _open(root, "c").add(_THEN)


def remove(root: Path) -> None:
    """Takes a document away."""
    corpus = _open(root, "c")
    if any(document.document == "b" for document in corpus.documents()):
        corpus.remove("b")


def study(root: Path) -> None:
    """Writes an adapter beside the tables."""
    corpus = _open(root, "c")
    folder = corpus.path
    with corpus.changing("study"):
        (folder / "adapter").mkdir(exist_ok=True)
        (folder / "adapter" / "weights").write_bytes(b"w" * 5000)


def compact(root: Path) -> None:
    """Drops what no document needs, and all earlier versions."""
    _open(root, "c").compact()


def roll_back(root: Path) -> None:
    """Goes back to the oldest version of a second corpus."""
    other = _open(root, "other")
    other.add(_FIRST)
    other.rollback(min(version.version for version in other.versions()))


def delete(root: Path) -> None:
    """Deletes the second corpus."""
    _open(root, "other").delete()


STEPS: tuple[Callable[[Path], None], ...] = (add, replace, remove, study, compact, roll_back, delete)


def run(count: int, seed: int, folder: Path) -> Tally:
    """Kills a process that writes, `count` times, and does all of the work after every 25 kills."""
    tally, chance = Tally("SIGKILLs"), random.Random(seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.fuzz.kills"])
    finish(folder / "whole")
    expected = dump(Corpus.open(folder / "whole", "c"))
    took = {step: _seconds(context, step, folder / "timed") for step in STEPS}
    store = 0
    with Clock(tally):
        while tally.tried < count:
            store += 1
            root = folder / str(store)
            for number in range(min(_KILLS_A_STORE, count - tally.tried)):
                step = chance.choice(STEPS)
                _kill(context, step, root, chance.uniform(0, took[step]))
                name = f"seed {seed}, store {store}, kill {number} in {step.__name__}"
                tally.attempt(name, lambda root=root: check(root))
            finish(root)
            if dump(Corpus.open(root, "c")) != expected:
                tally.fail(f"seed {seed}, store {store}: the work ended with something else")
            leftovers = sorted(path.name for path in root.iterdir() if path.name.startswith((".new-", ".deleted-")))
            if leftovers:
                tally.fail(f"seed {seed}, store {store}: left behind: {', '.join(leftovers)}")
            shutil.rmtree(root)
    return tally


def finish(root: Path) -> None:
    """Does all of the work, whatever of it is done."""
    for step in STEPS:
        step(root)


def check(root: Path) -> str:
    """What a killed process left behind is whole."""
    for name in Corpus.names(root) if root.exists() else []:
        corpus = Corpus.open(root, name)
        problems = corpus.verify().problems
        if problems:
            return f"FAILED verify: {problems[0]}"
        for document in corpus.documents():
            known = {doc.text for doc in (*_FIRST, *_THEN) if doc.name == document.document}
            if corpus.document_text(document.document) not in known:
                return f"FAILED {document.document} holds another text"
    return "whole"


def _open(root: Path, name: str) -> Corpus:
    return Corpus.create(root, name, FakeCompressor(), exist_ok=True)


def _kill(context: Any, step: Callable[[Path], None], root: Path, after_seconds: float) -> None:
    """Starts a step in a process and kills it; it may have ended by itself before."""
    process = context.Process(target=step, args=(root,))
    process.start()
    time.sleep(after_seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, 9)
    process.join()


def _seconds(context: Any, step: Callable[[Path], None], root: Path) -> float:
    """How long a step takes where nobody kills it."""
    process = context.Process(target=step, args=(root,))
    began = time.monotonic()
    process.start()
    process.join()
    assert process.exitcode == 0, step.__name__
    return time.monotonic() - began
