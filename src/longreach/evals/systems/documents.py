"""Systems of documents: ways to read a long document with few positions, at equal positions.

    none         the question alone
    truncated    the beginning and the end of the document, as many positions as its memory takes
    bm25         the best passages by BM25, as many positions as its memory takes
    mean-pool    vectors of mean pooling at the same ratio
    compressed   its memory
    mixed        the best passage as text and the memory of the next best, as many positions as
                 its memory takes

All say the same words after what they read, with the same model. The adapter, where there is one,
is on for the memory that it was trained for, and for text where a name ends in "+adapter".

Paper: Tan et al. 2024, LLoCO (arXiv 2404.07979), which compares with retrieval and truncation.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from longreach.engine.adapters import adapted
from longreach.engine.generate import write_all
from longreach.engine.prompt import PromptBuilder
from longreach.engine.request import stop_tokens
from longreach.engine.sampling import Sampling
from longreach.errors import ContextError, UsageError
from longreach.evals.run.folder import COSTS
from longreach.evals.run.memory import peak_memory
from longreach.evals.run.sample import Prediction, Sample
from longreach.evals.systems.base import make_prediction
from longreach.evals.systems.corpus import SampleCorpus
from longreach.evals.systems.models import cut_middle
from longreach.evals.systems.names import (
    ADAPTED,
    BM25,
    MIXED,
    NONE,
    OF_MEMORY,
    TRUNCATED,
    WAYS,
)
from longreach.models.decoder import window_of
from longreach.models.sharing import decode
from longreach.reading.policy import Policy
from longreach.wording import counted


class DocumentSystem:
    """One way of reading the documents of samples.

    Args:
        name: One of `WAYS`, with "+adapter" or without.
        corpus: The documents.

    Raises:
        UsageError: There is no such system, or it needs an adapter and the corpus has none.
    """

    def __init__(self, name: str, corpus: SampleCorpus) -> None:
        self.name = name
        self._corpus = corpus
        self._way = name.removesuffix(ADAPTED)
        with_adapter = name.endswith(ADAPTED)
        of_memory = self._way in OF_MEMORY
        if self._way not in WAYS or (with_adapter and of_memory):
            raise UsageError(f"There is no system '{name}' of documents: use {', '.join(WAYS)}.")
        if with_adapter and not corpus.adapter:
            raise UsageError(f"The system '{name}' needs an adapter: give one with --adapter.")
        self._with_adapter = of_memory or with_adapter
        self._builder = PromptBuilder(corpus.model, corpus.tokenizer)
        self._separator = self._builder.raw("")
        self._stops = stop_tokens(corpus.model, corpus.tokenizer)

    def identity(self) -> Mapping[str, object]:
        """See `System`."""
        corpus = self._corpus
        return {
            "kind": "documents",
            "way": self._way,
            "model_fingerprint": corpus.model_fingerprint,
            "dtype": str(corpus.model.dtype).removeprefix("torch."),
            "compressor_fingerprint": corpus.fingerprint if self._way != NONE else None,
            "adapter": corpus.adapter if self._with_adapter else None,
        }

    def prepare(self, folder: Path) -> dict[str, float]:
        """Makes the corpus; returns what memory cost where this system reads it. See `System`."""
        costs = self._corpus.prepare(folder)
        # The index is made here, and not while the first question waits.
        self._corpus.reader.corpus.search("index")
        if self._way not in OF_MEMORY:
            return {}
        return {name: costs[name] for name in COSTS if name in costs}

    def answer(self, samples: Sequence[Sample]) -> Iterator[Prediction]:
        """See `System`.

        Raises:
            ContextError: A question does not fit the model's window.
        """
        # Ends are no passages, so that the reader does not know how to read them.
        ask = self._read_ends if self._way == TRUNCATED else self._read_corpus
        with peak_memory(self._corpus.model.device) as peak:
            # All of them, while memory is watched.
            answers = list(ask(samples))
            most = peak()
        for answer in answers:
            yield replace(answer, peak_bytes=most)

    def _read_corpus(self, samples: Sequence[Sample]) -> Iterator[Prediction]:
        answers = self._corpus.reader.ask_many(
            [sample.question for sample in samples],
            documents=[sample.document for sample in samples],
            policy=list(map(self._policy, samples)),
            words=list(map(words_of, samples)),
            sampling=Sampling(samples[0].max_new_tokens),
            batch_size=len(samples),
        )
        for answer in answers:
            yield Prediction(
                text=answer.text,
                read_tokens=answer.usage.source_tokens,
                positions=answer.usage.positions,
                new_tokens=answer.usage.answer_tokens,
                first_token_seconds=answer.timings.first_token_seconds,
                seconds=answer.timings.total_seconds,
                kv_bytes=answer.usage.kv_bytes,
            )

    def _read_ends(self, samples: Sequence[Sample]) -> Iterator[Prediction]:
        """Reads the ends of each document, in the positions and the prompt that the others have."""
        began = time.perf_counter()
        corpus = self._corpus
        adapter = corpus.adapter if self._with_adapter else None
        ends = list(map(self._cut_ends, samples))
        prompts = []
        with adapted(corpus.model, [adapter]):
            for sample, ids in zip(samples, ends, strict=True):
                prompts.append(self._builder.build((), [ids], words_of(sample), ""))
        written = write_all(
            corpus.model,
            [prompt.embeds for prompt in prompts],
            self._stops,
            Sampling(samples[0].max_new_tokens),
            began=began,
            adapter=adapter,
        )
        for prompt, own in zip(prompts, written, strict=True):
            text = decode(corpus.tokenizer, own.tokens, skip_special_tokens=True)
            yield make_prediction(prompt, own, text.strip())

    def _cut_ends(self, sample: Sample) -> list[int]:
        """Returns the tokens of both ends of a document, as many as its memory leaves positions."""
        taken = self._builder.fixed(words_of(sample), "") + len(self._separator)
        # Else nothing of the document would be left to read.
        if taken > self._left(sample):
            raise ContextError(
                f"The question of the sample '{sample.id}' takes {counted(taken, 'position')},"
                f" and its answer leaves {self._left(sample):,} of the model's window: lower"
                " --max-new-tokens, or shorten the question."
            )
        ids = self._builder.plain(sample.context)
        head, tail = cut_middle(ids, self._positions(sample) - taken)
        return [*head, *tail, *self._separator]

    def _left(self, sample: Sample) -> int:
        """Returns the positions of a prompt that leave the window enough for the answer."""
        # A model without a window reads whatever fits into memory.
        return (window_of(self._corpus.model) or sys.maxsize) - sample.max_new_tokens

    def _positions(self, sample: Sample) -> int:
        """Returns the positions of the prompt in which the document is read as memory."""
        # What memory takes is what every other way may take.
        cost = self._builder.vectors_cost(self._corpus.size(sample.document).positions)
        return min(self._left(sample), self._builder.fixed(words_of(sample), "") + cost)

    def _policy(self, sample: Sample) -> Policy:
        if self._way == NONE:
            return Policy.none(budget=self._left(sample), adapter=self._with_adapter)
        # As many as there are: the budget decides how many fit.
        k = self._corpus.size(sample.document).passages
        if self._way == MIXED:
            return Policy(k, 1, "passages", budget=self._positions(sample), cut=True)
        # The last passage is cut, so that the budget is used up.
        if self._way == BM25:
            return Policy.passages(
                k, budget=self._positions(sample), cut=True, adapter=self._with_adapter
            )
        return Policy.compressed(budget=self._left(sample))


def words_of(sample: Sample) -> str:
    """Returns what a model is told after a document: what stands around it in a sample."""
    parts = (sample.before.strip(), sample.after.strip())
    return "\n\n".join(filter(None, parts))
