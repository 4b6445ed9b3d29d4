"""The work folder of a corpus, where its adapter is trained, and how that gets into the corpus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from longreach.corpus.artefacts import ADAPTER
from longreach.corpus.faults import explain_disk_faults
from longreach.errors import CorpusBusy
from longreach.training.study.undo import keep_state

if TYPE_CHECKING:
    from longreach.corpus.store import Corpus

QUESTIONS = "questions.jsonl"  # what was asked and answered about the corpus' passages


@contextmanager
def working(corpus: Corpus) -> Iterator[Path]:
    """The work folder of a corpus, for one process at a time.

    Raises:
        CorpusBusy: another process has it.
        StorageError: the disk refused what is done in it.
    """
    work = corpus.work_path
    # It fails at once instead of waiting, because the other study may take hours.
    lock = filelock.FileLock(work / ".lock", timeout=0)
    with explain_disk_faults(corpus.path):
        work.mkdir(exist_ok=True)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise CorpusBusy(
                f"Another process studies corpus '{corpus.name}': try again when it has ended."
            ) from error
        try:
            yield work
        finally:
            lock.release()


def publish(corpus: Corpus, made: Path) -> Path:
    """Puts an adapter into the corpus and returns its folder there.

    An earlier one goes, and its scorecard with it.
    """
    there = corpus.artefacts
    # A study that is repeated must not count as another one: `undo` would give back the same
    # adapter.
    if not (there.holds(ADAPTER, made) and there.is_intact(ADAPTER)):
        with corpus.changing("study") as artefacts:
            # An adapter that a killed process had moved aside is back now.
            if artefacts.holds(ADAPTER, made):
                artefacts.seal(ADAPTER)
            else:
                keep_state(artefacts)
                artefacts.put(ADAPTER, made)
    adapter = there.get(ADAPTER)
    assert adapter is not None
    return adapter
