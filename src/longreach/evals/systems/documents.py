"""Readers of documents: the ways in which a user could read a long document with few positions, at
equal positions.

    none         the question alone
    truncated    the beginning and the end of the document, as many positions as its vectors take
    bm25         the best passages by BM25, as many positions as its vectors take
    mean-pool    vectors of mean pooling at the same ratio
    compressed   its vectors
    mixed        the best passage as text and the vectors of the next best, as many positions as its
    vectors take

All say the same words after what they read, with the same model. The adapter, where there is one,
is on for the vectors that it was trained for, and for text where a name ends in "+adapter".

Paper: Tan et al. 2024, LLoCO (arXiv 2404.07979), which compares with retrieval and truncation.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from longreach.compressors.base import Compressor
from longreach.corpus.documents import Document
from longreach.corpus.schema import READER
from longreach.corpus.store import Corpus
from longreach.engine.generate import stop_tokens, write_all
from longreach.engine.prompt import PromptBuilder
from longreach.engine.sampling import Sampling
from longreach.errors import ContextError, DocumentError, UsageError
from longreach.evals.run.folder import COSTS
from longreach.evals.run.sample import Prediction, Sample
from longreach.evals.suites.choice import (
    ADAPTED,
    BM25,
    COMPRESSED,
    MEAN_POOL,
    MIXED,
    NONE,
    TRUNCATED,
    WAYS,
)
from longreach.evals.systems.memory import peak_memory
from longreach.evals.systems.models import cut_middle
from longreach.jsontext import parse_object
from longreach.models.decoder import add_adapter, only_adapter, window_of
from longreach.models.sharing import decode
from longreach.reading.policy import Policy
from longreach.reading.reader import Reader
from longreach.training.common.run import report_of, write_json
from longreach.wording import counted

_VECTORS = (MEAN_POOL, COMPRESSED, MIXED)
_CORPORA = "corpora"  # in the folder of a run


class Library:
    """The documents of samples as a corpus: made once in the folder of a run, or one that holds
    them already.

    Args:
        samples: Their contexts are the documents, by the names that they give.
        model: The model that reads, with the compressor's weights in it where those are merged.
        tokenizer: Its tokenizer.
        compressor: Makes the vectors; None where `corpus` has them.
        corpus: One that holds the documents.
        adapter: Folder of a LoRA adapter; None takes the corpus' or the compressor's own, where it
            has one.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        model: Any,
        tokenizer: Any,
        *,
        compressor: Compressor | None = None,
        corpus: Corpus | None = None,
        adapter: str | Path | None = None,
    ) -> None:
        self.model, self.tokenizer, self.compressor, self._corpus = (
            model,
            tokenizer,
            compressor,
            corpus,
        )
        self._documents = {sample.document: sample.context for sample in samples}
        source = compressor or (corpus.settings if corpus else None)
        assert source is not None, "a library needs a compressor or a corpus"
        self.fingerprint, self.model_fingerprint = source.fingerprint, source.model_fingerprint
        own = compressor.reader if compressor else corpus.adapter_path if corpus else None
        self._adapter = Path(adapter) if adapter else own
        self.adapter = (
            add_adapter(model, self._adapter, self.model_fingerprint) if self._adapter else None
        )
        self._costs: dict[str, float] = {}
        self._sizes: dict[str, tuple[int, int]] = {}

    def prepare(self, folder: Path) -> dict[str, float]:
        """Makes the corpus in the folder of a run, or goes on with it.

        Returns:
            The seconds that compressing and studying took, where they were measured.

        Raises:
            DocumentError: A document cannot be compressed.
        """
        if self._corpus is None:
            self._corpus, self._costs = self._ingested(folder / _CORPORA)
        if self._adapter and self._adapter in (
            self._corpus.artefacts.get(READER),
            self.compressor and self.compressor.reader,
        ):
            return self._costs | {"study_seconds": 0.0}  # it came with the compressor
        seconds = (
            _study_seconds(self._corpus) if self._adapter == self._corpus.adapter_path else None
        )
        return self._costs | ({"study_seconds": seconds} if seconds and self.adapter else {})

    def _ingested(self, store: Path) -> tuple[Corpus, dict[str, float]]:
        assert self.compressor is not None
        name = f"{self.compressor.describe()['method']}-{self.fingerprint[:12]}"
        fresh = name not in Corpus.names(store)
        make = Corpus.create if fresh else Corpus.open
        corpus, measured = make(store, name, self.compressor), store / f"{name}.json"
        report = corpus.add([Document(*one) for one in self._documents.items()], progress=True)
        if report.skipped:
            raise DocumentError(report.skipped[0].reason)
        if fresh:  # what was stopped and went on was not measured whole
            write_json(measured, {"ingest_seconds": report.seconds})
        return corpus, parse_object(measured.read_bytes()) if measured.is_file() else {}

    @cached_property
    def reader(self) -> Reader:
        """Reads the corpus, each context anew."""
        assert self._corpus is not None, "prepare comes first"
        return Reader(
            self._corpus, self.model, self.tokenizer, self._adapter, policy=Policy(), hot_bytes=0
        )

    def size(self, document: str) -> tuple[int, int]:
        """The passages and the vectors of a document."""
        if document not in self._sizes:
            passages = self.reader.corpus.passages(document)
            self._sizes[document] = len(passages), sum(passage.n_vectors for passage in passages)
        return self._sizes[document]


class DocumentReader:
    """One way of reading the documents of samples.

    Args:
        name: Out of `WAYS`, with "+adapter" or without.
        library: The documents.
    """

    def __init__(self, name: str, library: Library) -> None:
        self.name, self._library = name, library
        self._way = name.removesuffix(ADAPTED)
        self._with_adapter = self._way in _VECTORS or name.endswith(ADAPTED)
        if self._way not in WAYS or (name.endswith(ADAPTED) and self._way in _VECTORS):
            raise UsageError(f"There is no reader '{name}' of documents: use {', '.join(WAYS)}.")
        if name.endswith(ADAPTED) and not library.adapter:
            raise UsageError(f"The reader '{name}' needs an adapter: give one with --adapter.")
        self._builder = PromptBuilder(library.model, library.tokenizer)
        self._separator = self._builder.raw("")
        self._stops = stop_tokens(library.model, library.tokenizer)

    def identity(self) -> Mapping[str, object]:
        """See `Answering`."""
        library = self._library
        return {
            "kind": "documents",
            "way": self._way,
            "model_fingerprint": library.model_fingerprint,
            "dtype": str(library.model.dtype).removeprefix("torch."),
            "compressor_fingerprint": library.fingerprint if self._way != NONE else None,
            "adapter": library.adapter if self._with_adapter else None,
        }

    def prepare(self, folder: Path) -> dict[str, float]:
        """See `evaluate`: what vectors cost is noted with the readers that read them."""
        costs = self._library.prepare(folder)
        # Made here, and not while the first question waits.
        self._library.reader.corpus.search("index")
        return {name: costs[name] for name in COSTS if name in costs and self._way in _VECTORS}

    def answer(self, samples: Sequence[Sample]) -> Iterator[Prediction]:
        """See `Answering`.

        Raises:
            ContextError: A question does not fit the model's window.
        """
        with peak_memory(self._library.model.device) as peak:
            answers = (
                self._truncated(samples) if self._way == TRUNCATED else self._from_corpus(samples)
            )
            most = peak()
        for values in answers:
            yield Prediction(**values, peak_bytes=most)

    def _from_corpus(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        answers = self._library.reader.ask_many(
            [sample.question for sample in samples],
            documents=[sample.document for sample in samples],
            policy=[self._policy(sample) for sample in samples],
            words=[words_of(sample) for sample in samples],
            sampling=Sampling(samples[0].max_new_tokens),
            batch_size=len(samples),
        )
        return [
            {
                "text": answer.text,
                "read_tokens": answer.usage.source_tokens,
                "positions": answer.usage.positions,
                "new_tokens": answer.usage.answer_tokens,
                "first_token_seconds": answer.timings.first_token_seconds,
                "seconds": answer.timings.total_seconds,
                "kv_bytes": answer.usage.kv_bytes,
            }
            for answer in answers
        ]

    def _truncated(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """The two ends of each document in the positions of its vectors, in the prompt that the
        others have."""
        began, library = time.perf_counter(), self._library
        texts: list[tuple[list[int], str]] = []
        for sample in samples:
            words = words_of(sample)
            taken = self._builder.fixed(words, "") + len(self._separator)
            if taken > self._left(sample):
                raise ContextError(
                    f"The question of the sample '{sample.id}' takes {counted(taken, 'position')},"
                    f" and its answer leaves {self._left(sample):,} of the model's window: lower"
                    " --max-new-tokens, or shorten the question."
                )
            room = self._positions(sample) - taken
            head, tail = cut_middle(self._builder.plain(sample.context), room)
            texts.append(([*head, *tail, *self._separator], words))
        adapted = partial(
            only_adapter, library.model, library.adapter if self._with_adapter else None
        )
        with adapted():
            prompts = [self._builder.build((), [ids], words, "") for ids, words in texts]
        written = write_all(
            library.model,
            [prompt.embeds for prompt in prompts],
            self._stops,
            Sampling(samples[0].max_new_tokens),
            began=began,
            around=adapted,
        )
        return [
            {
                "text": decode(library.tokenizer, own.tokens, skip_special_tokens=True).strip(),
                "read_tokens": prompt.raw_tokens,
                "positions": len(prompt.embeds),
                "new_tokens": len(own.tokens),
                "first_token_seconds": own.first_token_seconds,
                "seconds": own.seconds,
                "kv_bytes": own.kv_bytes,
            }
            for prompt, own in zip(prompts, written, strict=True)
        ]

    def _left(self, sample: Sample) -> int:
        """Positions of a prompt that leave room for the answer."""
        return (window_of(self._library.model) or sys.maxsize) - sample.max_new_tokens

    def _positions(self, sample: Sample) -> int:
        """Of the prompt in which the document is read as vectors."""
        cost = self._builder.vectors_cost(self._library.size(sample.document)[1])
        return min(self._left(sample), self._builder.fixed(words_of(sample), "") + cost)

    def _policy(self, sample: Sample) -> Policy:
        if self._way == NONE:
            return Policy(
                raw=0, compressed="none", budget=self._left(sample), adapter=self._with_adapter
            )
        k = self._library.size(sample.document)[0]
        if self._way == MIXED:
            return Policy(k, 1, "passages", budget=self._positions(sample), cut=True)
        if self._way == BM25:
            return Policy(
                k, k, "none", budget=self._positions(sample), cut=True, adapter=self._with_adapter
            )
        return Policy(raw=0, compressed="document", budget=self._left(sample))


def words_of(sample: Sample) -> str:
    """What a model is told after a document: what stands before and after it in a sample."""
    return "\n\n".join(part for part in (sample.before.strip(), sample.after.strip()) if part)


def _study_seconds(corpus: Corpus) -> float | None:
    """What training the adapter that a corpus has took, where that was done at one go."""
    weights = "adapter_model.safetensors"
    for run in sorted(corpus.work_path.glob("runs/*")):
        report, made = report_of(run), run / "adapter" / weights
        if report and made.is_file() and corpus.adapter_path and not report["resumed_at"]:
            own = corpus.adapter_path / weights
            if own.is_file() and own.read_bytes() == made.read_bytes():
                return float(report["seconds"])
    return None
