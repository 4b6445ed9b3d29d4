"""SIGKILL at any moment of every kind of write: what is there is whole, and the same work done again ends the same."""

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from longreach.corpus.documents import Document
from longreach.corpus.store import Corpus
from tests.corpus.corpus_fakes import FakeCompressor, dump
from tests.fuzz.tally import Clock, Tally

_FIRST = [Document("a", "The first document is not long, but longer than the second. 😀"), Document("b", "The second.")]
_THEN = [
    Document("a", "The first document, written anew, and longer than it was before."),
    Document("c", "A third one."),
]
_LATEST_SECONDS = 0.08


def work(root: Path) -> None:
    """Every kind of write, in an order that may begin anywhere: each step does nothing where it is done."""
    corpus = Corpus.create(root, "c", FakeCompressor(), exist_ok=True)
    corpus.add(_FIRST)
    corpus.add(_THEN)
    if any(document.document == "b" for document in corpus.documents()):
        corpus.remove("b")
    with corpus.changing("study") as folder:
        (folder / "adapter").mkdir(exist_ok=True)
        (folder / "adapter" / "weights").write_bytes(b"w" * 5000)
    corpus.compact()
    other = Corpus.create(root, "other", FakeCompressor(), exist_ok=True)
    other.add(_FIRST)
    other.rollback(min(version.version for version in other.versions()))
    other.delete()


def run(count: int, seed: int, folder: Path) -> Tally:
    """Kills a process that writes, `count` times, and finishes its work."""
    tally, chance = Tally("SIGKILLs"), random.Random(seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.fuzz.kills"])
    work(folder / "whole")
    expected = dump(Corpus.open(folder / "whole", "c"))
    took = _seconds(context, folder / "timed")
    number = 0
    with Clock(tally):
        while tally.tried < count:
            number += 1
            root = folder / str(number)
            kills = 0
            while kills < 6:
                process = context.Process(target=work, args=(root,))
                process.start()
                time.sleep(chance.uniform(0, took * 1.1))
                killed = process.is_alive()
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
                process.join()
                if not killed:
                    break
                kills += 1
                name = f"seed {seed}, store {number}, kill {kills}"
                tally.attempt(name, lambda root=root: check(root))
            work(root)
            if dump(Corpus.open(root, "c")) != expected:
                tally.fail(f"seed {seed}, store {number}: the work ended with something else")
            leftovers = sorted(path.name for path in root.iterdir() if path.name.startswith((".new-", ".deleted-")))
            if leftovers:
                tally.fail(f"seed {seed}, store {number}: left behind: {', '.join(leftovers)}")
            shutil.rmtree(root)
    return tally


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


def _seconds(context: Any, root: Path) -> float:
    """How long the work takes where nobody kills it."""
    process = context.Process(target=work, args=(root,))
    began = time.monotonic()
    process.start()
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - began
