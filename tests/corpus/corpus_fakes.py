"""A compressor small enough to run a thousand times, for the tests of the store, and jobs for their child processes."""

import hashlib
import os
import signal
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from longreach.compressors.base import Compressor
from longreach.compressors.jobs import Job, SegmentMemory
from longreach.compressors.memory import Vectors
from longreach.corpus import ingest, integrity
from longreach.corpus.documents import Document
from longreach.corpus.store import Corpus
from longreach.corpus.tables import connect

SEGMENT_TOKENS = 8


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that an emoji is four tokens and a segment may end inside it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=16)


class FakeCompressor(Compressor):
    """Vectors depend on the ids and on every earlier vector, so a resume that is wrong anywhere changes the rest.

    Two documents are worked on at a time, and their segments come out alternately.
    """

    method = "fake"
    dim = 4
    dtype = torch.bfloat16
    model_fingerprint = "fake-model"
    model_ref = ""

    def __init__(self, *, seed: int = 0, seconds: float = 0.0) -> None:
        self.tokenizer, self.segment_tokens = byte_tokenizer(), SEGMENT_TOKENS
        self.seed, self.seconds = seed, seconds
        self.compressed = 0

    @property
    def fingerprint(self) -> str:
        return f"fake-{self.seed}"

    def describe(self) -> dict:
        return {"method": self.method, "seed": self.seed}

    def vectors_in(self, tokens: int) -> int:
        return 2

    def stream(self, jobs: Iterable[Job], *, batch_size: int | None = None) -> Iterator[SegmentMemory]:
        jobs = iter(jobs)
        lanes = [self._document(job) for job in islice(jobs, 2)]
        while lanes:
            for lane in list(lanes):
                result = next(lane, None)
                if result is not None:
                    yield result
                    continue
                lanes.remove(lane)
                lanes += [self._document(job) for job in islice(jobs, 1)]

    def _document(self, job: Job) -> Iterator[SegmentMemory]:
        earlier = [memory.vectors for memory in job.done]
        for number, tokens in list(enumerate(self.segments(len(job.ids))))[len(earlier) :]:
            time.sleep(self.seconds)
            ids = list(job.ids[tokens.start : tokens.stop])
            seen = [vector.float().tolist() for vector in earlier]
            raw = hashlib.sha256(repr((self.seed, ids, seen)).encode()).digest()[: 2 * self.dim]
            vectors = torch.tensor(list(raw)).view(2, self.dim).to(self.dtype)
            earlier.append(vectors)
            self.compressed += 1
            yield SegmentMemory(job.key, number, Vectors(vectors))


def dump(corpus: Corpus) -> tuple[list[dict], list[dict]]:
    """Every row of both tables in a fixed order, less the time of adding."""
    database = connect(corpus.path)
    passages = database.open_table("passages").to_arrow().to_pylist()
    documents = database.open_table("documents").to_arrow().to_pylist()
    plain = [{k: v for k, v in row.items() if k not in ("added", "checksum")} for row in documents]
    return sorted(passages, key=lambda r: (r["revision"], r["index"])), sorted(plain, key=lambda r: r["document"])


def child_add(
    root: Path, documents: list[tuple[str, str]], seconds: float = 0.0, die: tuple[str, int] | None = None
) -> None:
    """Adds documents, a flush a passage. `die`: SIGKILL before or after the n-th write to the file log."""
    ingest.FLUSH_PASSAGES = 1
    if die is not None:
        when, left = die
        append = integrity.FileLog._append

        def deadly(self: integrity.FileLog, *entries: dict) -> None:
            nonlocal left
            left -= 1
            if left == 0 and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            append(self, *entries)
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        integrity.FileLog._append = deadly
    corpus = Corpus.open(root, "c", FakeCompressor(seconds=seconds))
    corpus.add([Document(*document) for document in documents])


def child_read(root: Path, seconds: float) -> None:
    """Reads all there is again and again: whole documents only, and never fewer."""
    corpus, until, seen = Corpus.open(root, "c"), time.monotonic() + seconds, 0
    while time.monotonic() < until:
        for document in corpus.documents():
            passages = corpus.passages(document.document)
            assert sum(len(passage.text) for passage in passages) == document.characters
            assert len(corpus.vectors(document.revision)) == document.passages
        count = len(corpus.documents())
        assert count >= seen
        seen = count
