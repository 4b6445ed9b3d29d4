"""Systems by their names: those of whole texts, and those of documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from longreach.compressors.mean_pool import MeanPool
from longreach.compressors.registry import method_named
from longreach.evals.peers.kvpress import KvpressSystem
from longreach.evals.run.sample import Sample
from longreach.evals.run.subject import Subject
from longreach.evals.systems.base import System
from longreach.evals.systems.corpus import SampleCorpus
from longreach.evals.systems.documents import DocumentSystem
from longreach.evals.systems.models import ModelSystem, TooLong, attending
from longreach.evals.systems.names import MEAN_POOL, is_peer, reads_whole_texts
from longreach.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SAID = {
    "cut": "their middle is cut",
    "leave out": "they are omitted",
    "read": "they are read all the same",
}


def make_model_systems(
    names: Iterable[str],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    too_long: TooLong,
) -> list[ModelSystem]:
    """Returns the systems of whole texts by their names.

    Args:
        names: See `systems.names`.
        model: Whose weights they share.
        tokenizer: Its tokenizer.
        too_long: What becomes of samples beyond the window; see `ModelSystem`.

    Raises:
        UsageError: There is no such system, or the model cannot become it.
        MissingDependency: A peer is not installed.
    """
    found = list[ModelSystem]()
    for name in names:
        if is_peer(name):
            found.append(KvpressSystem(name, model, tokenizer, too_long=too_long))
        else:
            called, own = attending(name, model)
            found.append(ModelSystem(called, own, tokenizer, too_long=too_long))
    return found


def make_document_systems(
    names: Sequence[str],
    samples: Sequence[Sample],
    subject: Subject,
    adapter: Path | None,
    too_long: TooLong,
) -> list[System]:
    """Returns the systems of documents, whole and in part, in the order of their names.

    Args:
        names: See `systems.names`.
        samples: Whose contexts are the documents.
        subject: The model and what the memory comes from.
        adapter: Folder of the adapter that reads memory; None takes the subject's own.
        too_long: What becomes of documents beyond the window where they are read whole.

    Raises:
        UsageError: There is no such system, or it needs an adapter and there is none.
    """
    whole = []
    parts = []
    for name in names:
        if reads_whole_texts(name):
            whole.append(name)
        else:
            parts.append(name)
    # These come first: before an adapter lies over the weights that they share.
    models = make_model_systems(whole, subject.model, subject.tokenizer, too_long)
    found = dict[str, System](zip(whole, models, strict=True))
    found.update(_make_part_systems(parts, samples, subject, adapter))
    # In the order in which they were named.
    return list(map(found.__getitem__, names))


def _make_part_systems(
    names: Sequence[str], samples: Sequence[Sample], subject: Subject, adapter: Path | None
) -> dict[str, System]:
    # Without such a system no corpus is made.
    if not names:
        return {}
    corpus = SampleCorpus(
        samples,
        subject.model,
        subject.tokenizer,
        compressor=subject.compressor,
        corpus=subject.corpus,
        adapter=adapter or subject.own_adapter,
    )
    pooled = corpus
    if MEAN_POOL in names and subject.memory_settings["method"] != MeanPool.method:
        # Mean pooling needs a corpus of its own, at the same ratio.
        compressor = MeanPool(subject.model, subject.tokenizer, find_ratio(subject))
        pooled = SampleCorpus(samples, subject.model, subject.tokenizer, compressor=compressor)
    found = dict[str, System]()
    for name in names:
        found[name] = DocumentSystem(name, pooled if name == MEAN_POOL else corpus)
    return found


def find_ratio(subject: Subject) -> int:
    """Returns how many tokens share a position of the subject's memory."""
    settings = subject.memory_settings
    kind = method_named(str(settings["method"])).compressor()
    return kind.tokens_per_position(settings)


def count_excess(
    systems: Iterable[System], samples: Sequence[Sample], say: Callable[[str], None]
) -> dict[str, int]:
    """Returns how many samples are longer than the window of each system of whole texts.

    Args:
        systems: Others are skipped.
        samples: That they are asked.
        say: Is told what becomes of these samples.
    """
    found = dict[str, int]()
    for system in systems:
        # Systems that read parts fit every window.
        if not isinstance(system, ModelSystem):
            continue
        long = 0
        for sample in samples:
            if system.excess(sample) > 0:
                long += 1
        found[system.name] = long
        if long:
            say(
                f"{system.name}: {long} of {counted(len(samples), 'sample')} are longer than the"
                f" window; {_SAID[system.too_long]}."
            )
    return found
