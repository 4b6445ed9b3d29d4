"""Which passages a question is about: by BM25, by dense embeddings (an extra), or both fused."""

import itertools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, get_args
from zipfile import BadZipFile

import numpy as np

from longreach.corpus.search.analyzer import cut_passages, cut_question, has_content
from longreach.corpus.search.encoder import load_encoder
from longreach.errors import UsageError
from longreach.models.loading.places import cache_folder
from longreach.models.sharing import exclusive

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from longreach.corpus.reading import CorpusReading
    from longreach.corpus.schema import PassageInfo

Method = Literal["bm25", "dense", "hybrid"]
# Cormack et al., 2009.
_RRF_K = 60
_Scorer = Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Passage:
    """A retrieved passage. `text` is exactly characters `start` to `end` of the document's text.

    Attributes:
        document: Name of the document.
        start: First character, counted from 0.
        end: One past the last character.
        score: BM25 score, cosine similarity or reciprocal-rank sum, by method; higher is better.
        text: The raw text.
        index: Number of the passage in its document.
        revision: The content it was cut from.
        tokens: Its length in the model's tokens.
        n_vectors: How many positions the memory of its segment takes.
        segment: See `PassageInfo`.
        reach: See `PassageInfo`.
    """

    document: str
    start: int
    end: int
    score: float
    text: str
    index: int
    revision: str
    tokens: int
    n_vectors: int
    segment: int | None = field(default=None, kw_only=True)
    reach: int = field(default=0, kw_only=True)


class _Index:
    """The passages of one state of a corpus, and the scorers used so far.

    Threads may share it.
    """

    def __init__(self, state: object, passages: Sequence["PassageInfo"]) -> None:
        self.state = state
        self.passages = passages
        self._scorers: dict[str, _Scorer] = {}
        # A scorer is made once; who asks by another method need not wait for it.
        self._making = {method: threading.Lock() for method in _SCORERS}

    def score(self, method: str, query: str) -> np.ndarray:
        with self._making[method]:
            if method not in self._scorers:
                self._scorers[method] = _SCORERS[method](self.passages)
        return self._scorers[method](query)


_indices: weakref.WeakKeyDictionary["CorpusReading", _Index] = weakref.WeakKeyDictionary()


def search(
    corpus: "CorpusReading",
    query: str,
    k: int = 5,
    method: str = "bm25",
    document: str | None = None,
    among: Collection[str] | None = None,
) -> list[Passage]:
    """Returns the `k` passages that fit a query best, best first; fewer if fewer match at all.

    With `document`, only passages of that one are returned; with `among`, only passages of those.
    BM25 finds none that shares no word with the query; see `analyzer` for what a word is. The
    result is deterministic.

    Raises:
        UsageError: An unknown method, k < 1, or an empty query.
        MissingDependency: "dense" or "hybrid" without its extra.
    """
    if method not in get_args(Method):
        raise UsageError(
            f"There is no retriever '{method}': use one of {', '.join(get_args(Method))}."
        )
    if k < 1:
        raise UsageError(f"k is {k}; at least 1 passage has to be asked for.")
    if not query.strip():
        raise UsageError("The question is empty: ask something.")
    index = _get_index(corpus)
    if not index.passages:
        return []
    if method == "hybrid":
        rankings = []
        for part in ("bm25", "dense"):
            rankings.append(_rank(index.score(part, query), len(index.passages)))
        scores = _fuse(rankings, len(index.passages))
    else:
        scores = index.score(method, query)
    found: dict[tuple[str, int], Passage] = {}
    for i in _rank(scores, len(index.passages)):
        info = index.passages[i]
        if document not in (None, info.document):
            continue
        if among is not None and info.document not in among:
            continue
        # The same text twice is one.
        found.setdefault((info.revision, info.index), _make_passage(info, float(scores[i])))
        if len(found) == k:
            break
    return list(found.values())


def _get_index(corpus: "CorpusReading") -> _Index:
    # Threads that ask at the same time wait for one index instead of making one each.
    with exclusive(corpus):
        state = corpus.state()
        index = _indices.get(corpus)
        if index is None or index.state != state:
            index = _indices[corpus] = _Index(state, corpus.passages())
        return index


def _rank(scores: np.ndarray, k: int) -> list[int]:
    """Returns the indices of the highest scores above zero; equal ones in document order."""
    order = np.argsort(-scores, kind="stable")[:k]
    return [int(i) for i in order if scores[i] > 0]


def _fuse(rankings: Sequence[Sequence[int]], size: int) -> np.ndarray:
    """Returns the sum over rankings of 1 / (60 + rank), with ranks counted from 1.

    That is reciprocal rank fusion (Cormack et al., 2009).
    """
    scores = np.zeros(size)
    for ranking in rankings:
        for rank, i in enumerate(ranking, start=1):
            scores[i] += 1 / (_RRF_K + rank)
    return scores


def _make_passage(info: "PassageInfo", score: float) -> Passage:
    return Passage(
        info.document,
        info.start,
        info.end,
        score,
        info.text,
        info.index,
        info.revision,
        info.tokens,
        info.n_vectors,
        segment=info.segment,
        reach=info.reach,
    )


def _make_bm25(passages: Sequence["PassageInfo"]) -> _Scorer:
    without_stop_words = _make_bm25_of(passages, stop_words=False)
    # For questions that consist of nothing else, which are rare.
    with_stop_words = cache(partial(_make_bm25_of, passages, stop_words=True))

    def score(query: str) -> np.ndarray:
        if has_content(query):
            return without_stop_words(cut_question(query))
        return with_stop_words()(cut_question(query, stop_words=True))

    return score


def _make_bm25_of(
    passages: Sequence["PassageInfo"], *, stop_words: bool
) -> Callable[[list[str]], np.ndarray]:
    """Returns a function that scores all passages by the terms of a question."""
    import bm25s

    terms = cut_passages((passage.text for passage in passages), stop_words=stop_words)
    if not any(terms):
        return lambda asked: np.zeros(len(passages))
    index = bm25s.BM25()
    index.index(terms, show_progress=False)

    def score(asked: list[str]) -> np.ndarray:
        known = [term for term in asked if term in index.vocab_dict]
        if not known:
            return np.zeros(len(passages))
        return np.asarray(index.get_scores(known))

    return score


def _make_dense(passages: Sequence["PassageInfo"]) -> _Scorer:
    encoder = load_encoder()
    # Other corpora use the same one.
    with exclusive(encoder):
        owners, vectors = _embed(encoder, passages)

    def score(query: str) -> np.ndarray:
        best = np.full(len(passages), -1.0)
        with exclusive(encoder):
            asked = encoder.encode(query, normalize_embeddings=True, show_progress_bar=False)
        np.maximum.at(best, owners, vectors @ asked)
        return best

    return score


def _embed(
    encoder: "SentenceTransformer", passages: Sequence["PassageInfo"]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the windows of all passages, [W, e], and the passage of each.

    A revision is embedded once and kept on disk.
    """
    by_revision: dict[str, list[int]] = {}
    for i, passage in enumerate(passages):
        by_revision.setdefault(passage.revision, []).append(i)
    # Arrays cannot be joined out of none.
    owners = [np.empty(0, int)]
    size: Any = encoder.get_embedding_dimension()
    vectors = [np.empty((0, size), np.float32)]
    for revision, members in by_revision.items():
        # The same text may be there under other names.
        first = {passages[i].index: passages[i].text for i in members}
        counts, rows = _embed_revision(encoder, revision, [first[index] for index in sorted(first)])
        starts = np.cumsum([0, *counts])
        for i in members:
            start = starts[passages[i].index]
            end = starts[passages[i].index + 1]
            owners.append(np.full(end - start, i))
            vectors.append(rows[start:end])
    return np.concatenate(owners), np.concatenate(vectors)


def _embed_revision(
    encoder: "SentenceTransformer", revision: str, texts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns how many windows each passage has, and their embeddings."""
    kept = cache_folder() / "dense" / f"all-minilm-l6-v2-{revision}.npz"
    try:
        with np.load(kept) as file:
            if len(file["counts"]) == len(texts) and file["counts"].sum() == len(file["vectors"]):
                return file["counts"], file["vectors"]
    except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile):
        # It is not there yet, or cut short, and is made again below.
        pass
    windows = [_cut_windows(encoder, text) for text in texts]
    flat = list(chain.from_iterable(windows))
    shown = len(flat) > 500 and sys.stderr.isatty()
    rows = encoder.encode(flat, normalize_embeddings=True, show_progress_bar=shown)
    counts = np.array(list(map(len, windows)))
    draft = kept.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp.npz")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(draft, counts=counts, vectors=rows)
        draft.replace(kept)
    except OSError:
        # A full disk costs time at the next question, and no answer.
        draft.unlink(missing_ok=True)
    return counts, rows


def _cut_windows(encoder: "SentenceTransformer", text: str) -> list[str]:
    """Cuts a passage where the encoder would truncate it; a passage scores as its best window."""
    # Two tokens mark the begin and the end.
    longest: Any = encoder.max_seq_length
    length = longest - 2
    offsets = encoder.tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
    )["offset_mapping"]
    cuts = [offset[0] for offset in offsets[::length]] or [0]
    return [text[start:end] for start, end in itertools.pairwise([*cuts, len(text)])]


_SCORERS: dict[str, Callable[[Sequence["PassageInfo"]], _Scorer]] = {
    "bm25": _make_bm25,
    "dense": _make_dense,
}
