"""The documents of samples as a corpus, which systems of documents read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from longreach.compressors.base import Compressor
from longreach.corpus.documents import Document
from longreach.corpus.schema import READER
from longreach.corpus.store import Corpus
from longreach.errors import DocumentError
from longreach.evals.run.sample import Sample
from longreach.jsontext import parse_object, read_field
from longreach.models.decoder import add_adapter
from longreach.reading.policy import Policy
from longreach.reading.reader import Reader
from longreach.training.common.run import report_of, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_CORPORA = "corpora"  # in the folder of a run
_WEIGHTS = "adapter_model.safetensors"


class DocumentSize(NamedTuple):
    """How many passages a document has, and the positions that its memory takes."""

    passages: int
    positions: int


class SampleCorpus:
    """The documents of samples as a corpus: made in the folder of a run, or one that is there.

    Args:
        samples: Their contexts are the documents, by the names that they give.
        model: The model that reads, with the compressor's weights in it where those are merged.
        tokenizer: Its tokenizer.
        compressor: Makes the memory; None where `corpus` has it.
        corpus: One that holds the documents.
        adapter: Folder of a LoRA adapter; None takes the corpus's or the compressor's own, where
            it has one.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        compressor: Compressor | None = None,
        corpus: Corpus | None = None,
        adapter: str | Path | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.compressor = compressor
        self._corpus = corpus
        # Samples of one document name it alike, so that it is compressed once.
        self._documents = {sample.document: sample.context for sample in samples}
        own: Path | None = None
        if compressor is not None:
            self.fingerprint = compressor.fingerprint
            self.model_fingerprint = compressor.model_fingerprint
            own = compressor.reader
        else:
            assert corpus is not None, "the documents need a compressor or a corpus"
            self.fingerprint = corpus.settings.fingerprint
            self.model_fingerprint = corpus.settings.model_fingerprint
            own = corpus.adapter_path
        self._adapter = Path(adapter) if adapter else own
        self.adapter: str | None = None
        if self._adapter is not None:
            self.adapter = add_adapter(model, self._adapter, self.model_fingerprint)
        self._costs: dict[str, float] = {}
        self._sizes: dict[str, DocumentSize] = {}

    def prepare(self, folder: Path) -> dict[str, float]:
        """Makes the corpus in the folder of a run, or resumes that.

        Returns:
            The seconds that compressing and studying took, where they were measured.

        Raises:
            DocumentError: A document cannot be compressed.
        """
        # Several systems share the corpus: the first one makes it.
        if self._corpus is None:
            self._corpus = self._ingest(folder / _CORPORA)
        if self._adapter is None:
            return self._costs
        came_along = [self._corpus.artefacts.get(READER)]
        if self.compressor is not None and self.compressor.reader is not None:
            came_along.append(self.compressor.reader)
        if self._adapter in came_along:
            # It was trained with the compressor, not for these documents.
            return self._costs | {"study_seconds": 0.0}
        seconds = None
        if self._adapter == self._corpus.adapter_path:
            seconds = find_study_seconds(self._corpus)
        if not seconds:
            return self._costs
        return self._costs | {"study_seconds": seconds}

    def _ingest(self, store: Path) -> Corpus:
        """Makes the corpus, or resumes that; notes what it cost where it was done at one go."""
        assert self.compressor is not None
        # Named by the compressor: systems with another one get a corpus of their own.
        name = f"{self.compressor.describe()['method']}-{self.fingerprint[:12]}"
        measured = store / f"{name}.json"
        fresh = name not in Corpus.names(store)
        if fresh:
            corpus = Corpus.create(store, name, self.compressor)
        else:
            corpus = Corpus.open(store, name, self.compressor)
        documents = [Document(*item) for item in self._documents.items()]
        report = corpus.add(documents, progress=True)
        if report.skipped:
            raise DocumentError(report.skipped[0].reason)
        # What was stopped and resumed was not measured whole.
        if fresh:
            write_json(measured, {"ingest_seconds": report.seconds})
        if measured.is_file():
            costs = parse_object(measured.read_bytes())
            self._costs = {"ingest_seconds": read_field(costs, "ingest_seconds", float)}
        return corpus

    @cached_property
    def reader(self) -> Reader:
        """Reads the corpus, each context anew."""
        assert self._corpus is not None, "prepare comes first"
        return Reader(
            self._corpus, self.model, self.tokenizer, self._adapter, policy=Policy(), hot_bytes=0
        )

    def size(self, document: str) -> DocumentSize:
        """Returns how much there is of a document."""
        if document not in self._sizes:
            passages = self.reader.corpus.passages(document)
            # Each segment once, however many passages it has.
            held = [passage.n_vectors for passage in passages if passage.segment is None]
            positions = sum(held)
            self._sizes[document] = DocumentSize(len(passages), positions)
        return self._sizes[document]


def find_study_seconds(corpus: Corpus) -> float | None:
    """Returns what training the corpus's adapter took; None where nobody measured it whole."""
    if corpus.adapter_path is None:
        return None
    own = corpus.adapter_path / _WEIGHTS
    if not own.is_file():
        return None
    for run in sorted(corpus.work_path.glob("runs/*")):
        report = report_of(run)
        made = run / "adapter" / _WEIGHTS
        # Of a run that was resumed nobody knows what came before.
        if not report or report["resumed_at"] or not made.is_file():
            continue
        # The corpus may have been studied more than once: only one run made this adapter.
        if own.read_bytes() == made.read_bytes():
            return read_field(report, "seconds", float)
    return None
