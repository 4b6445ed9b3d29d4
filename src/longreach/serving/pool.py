"""Models and corpora that are loaded at the first question and leave by least recent use.

Corpora of one base model share it, so that questions to any of them, with any adapters, are
written together by its one engine.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from longreach.caches.prefix import PrefixCache
from longreach.corpus.artefacts import ADAPTER, SEAL
from longreach.corpus.documents.limits import format_bytes
from longreach.corpus.schema import SCORECARD, SETTINGS
from longreach.engine.prompt import PromptBuilder
from longreach.errors import CorpusNotFound, ModelError
from longreach.models.device import default_device, default_dtype
from longreach.models.loading.load import load, load_named
from longreach.serving.problems import Problem
from longreach.session.session import Session
from longreach.session.workspace import Loader

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from longreach.serving.settings import ServeSettings

_HOT_SHARE = 8  # of the memory, for the KV caches of contexts that a model has read
_MOST_HOT = 512 << 20
# Texts of passages and their index, measured against the characters of a corpus.
_BYTES_A_CHARACTER = 6
_BUSY_SECONDS = 10.0


class _ModelKey(NamedTuple):
    """What tells loaded models apart."""

    ref: str
    device: str
    dtype: str


@dataclass(eq=False)
class SharedModel:
    """A loaded model and what its users share.

    Attributes:
        model: The model.
        tokenizer: Its tokenizer.
        builder: Makes its prompts.
        hot: The KV caches of contexts that it has read.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    builder: PromptBuilder
    hot: PrefixCache
    users: int = 0
    used: int = 0

    @property
    def bytes(self) -> int:
        """The bytes of its weights, adapters included, and of what it keeps hot."""
        return weights_bytes(self.model) + self.hot.bytes


@dataclass(eq=False)
class _OpenCorpus:
    """A corpus that is open, who uses it, and the state of what was trained for it."""

    session: Session
    stamp: tuple[int, ...]
    characters: int = 0
    users: int = 0
    used: int = 0


class Pool:
    """What a server has loaded.

    Args:
        settings: The server's.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._lock = threading.RLock()
        self._loading = threading.RLock()
        self._models: dict[_ModelKey, SharedModel] = {}
        self._corpora: dict[str, _OpenCorpus] = {}
        self._clock = 0

    @property
    def model_id(self) -> str:
        """What clients call the base model; never the path that it lies at."""
        ref = self._settings.model
        return Path(ref).name if Path(ref).exists() else ref

    @contextmanager
    def open_model(self) -> Iterator[SharedModel]:
        """Gives the base model, which stays while the block lasts.

        Raises:
            ModelError: It cannot be loaded.
            Problem: 503, there is no memory for it now.
        """
        shared = self._take_model(_ModelKey(self._settings.model, *self._place(None, None)))
        try:
            yield shared
        finally:
            with self._lock:
                shared.users -= 1

    @contextmanager
    def open_corpus(self, name: str, *, create: bool = False) -> Iterator[Session]:
        """Gives a corpus, which stays open while the block lasts.

        Args:
            name: The corpus.
            create: Whether to make it where there is none.

        Raises:
            CorpusNotFound: There is none.
        """
        corpus = self._take_corpus(name, create)
        try:
            yield corpus.session
        except CorpusNotFound:
            # It was deleted, or deleted and made anew: the next question opens what is there.
            self.forget(name)
            raise
        finally:
            with self._lock:
                corpus.users -= 1
                self._evict(0)

    def measure(self, name: str) -> None:
        """Takes notice of the size of a corpus that has changed."""
        with self._lock:
            corpus = self._corpora.get(name)
            if corpus is not None:
                corpus.characters = _count_characters(corpus.session)

    def forget(self, name: str) -> None:
        """Lets go of a corpus; questions that are being answered are answered to their end."""
        with self._lock:
            self._corpora.pop(name, None)

    def find_shared(self, sessions: Sequence[Session]) -> SharedModel:
        """Returns the model that reads all of some open corpora.

        Raises:
            Problem: 400, they are read by different models.
        """
        models = [session.model for session in sessions]
        with self._lock:
            for shared in self._models.values():
                if all(model is shared.model for model in models):
                    return shared
        raise Problem(
            400,
            "These vector stores are read by different models: ask them one by one.",
            code="different_models",
        )

    def hot_bytes(self) -> int:
        """Returns the bytes of the KV caches that are kept for later questions."""
        with self._lock:
            return sum(shared.hot.bytes for shared in self._models.values())

    def models(self) -> list[PreTrainedModel]:
        """Returns the models that are loaded."""
        with self._lock:
            return [shared.model for shared in self._models.values()]

    def close(self) -> None:
        """Lets go of everything."""
        with self._lock:
            self._corpora.clear()
            self._models.clear()

    # -- corpora

    def _take_corpus(self, name: str, create: bool) -> _OpenCorpus:
        stamp = self._stamp(name)
        with self._lock:
            corpus = self._corpora.get(name)
            # Another corpus may have been made under this name since.
            if corpus is None or corpus.stamp[0] != stamp[0]:
                session = self._open_session(name, create)
                corpus = self._corpora[name] = _OpenCorpus(session, stamp)
                corpus.characters = _count_characters(session)
            corpus.users += 1
            corpus.used = self._tick()
        if stamp != corpus.stamp:
            # A study has put an adapter or a scorecard there since.
            corpus.stamp = stamp
            corpus.session.forget_reader()
        return corpus

    def _open_session(self, name: str, create: bool) -> Session:
        settings = self._settings
        return Session(
            name,
            settings.store,
            # A corpus names its own model; what is made here is made with the server's.
            model=settings.model if create else None,
            compressor=settings.compressor if create else None,
            settings={},
            create=create,
            adapter=None,
            policy=None,
            device=settings.device,
            dtype=settings.dtype,
            loader=self._give_model,
            find_hot=self._find_hot,
        )

    def _stamp(self, name: str) -> tuple[int, ...]:
        folder = self._settings.store / name
        times = []
        for path in (folder / SETTINGS, folder / ADAPTER / SEAL, folder / SCORECARD):
            try:
                times.append(path.stat().st_mtime_ns)
            except OSError:
                times.append(0)
        return tuple(times)

    # -- models

    def _give_model(
        self, ref: str, *, device: str | None = None, dtype: str | None = None
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Gives a session its model; see `longreach.session.workspace.Loader`."""
        shared = self._take_model(_ModelKey(ref, *self._place(device, dtype)))
        with self._lock:
            # The session's own use keeps it from leaving.
            shared.users -= 1
        return shared.model, shared.tokenizer

    def _place(self, device: str | None, dtype: str | None) -> tuple[str, str]:
        device = device or self._settings.device or default_device()
        return device, dtype or self._settings.dtype or default_dtype(device)

    def _take_model(self, key: _ModelKey) -> SharedModel:
        with self._lock:
            found = self._use(key)
        if found is not None:
            return found
        # One at a time, and without the lock: who asks a loaded model need not wait.
        with self._loading:
            with self._lock:
                found = self._use(key)
            if found is not None:
                return found
            with self._lock:
                self._evict(_estimate_bytes(key.ref))
            shared = self._load(key)
            with self._lock:
                self._check_fits(shared)
                self._models[key] = shared
                shared.users += 1
                shared.used = self._tick()
            return shared

    def _use(self, key: _ModelKey) -> SharedModel | None:
        shared = self._models.get(key)
        if shared is not None:
            shared.users += 1
            shared.used = self._tick()
        return shared

    def _load(self, key: _ModelKey) -> SharedModel:
        # Only what the server's user named is fetched: a corpus may come from anywhere.
        bring: Loader = load if key.ref == self._settings.model else load_named
        model, tokenizer = bring(key.ref, device=key.device, dtype=key.dtype)
        hot = PrefixCache(min(_MOST_HOT, self._settings.memory_bytes // _HOT_SHARE))
        return SharedModel(model, tokenizer, PromptBuilder(model, tokenizer), hot)

    def _find_hot(self, model: PreTrainedModel) -> PrefixCache | None:
        with self._lock:
            for shared in self._models.values():
                if shared.model is model:
                    return shared.hot
        return None

    # -- memory

    def _check_fits(self, shared: SharedModel) -> None:
        """Refuses a model that was just loaded where it does not fit beside those in use."""
        need = shared.bytes
        most = self._settings.memory_bytes
        if need > most:
            raise ModelError(
                f"The model needs {format_bytes(need)} and the server may use {format_bytes(most)}:"
                " start it with a larger --memory-gb."
            )
        self._evict(need)
        if self._bytes() + need > most:
            raise Problem(
                503,
                "The server's memory is taken by models that are answering: try again.",
                code="out_of_memory",
                retry_after=_BUSY_SECONDS,
            )

    def _bytes(self) -> int:
        total = 0
        for shared in self._models.values():
            total += shared.bytes
        for corpus in self._corpora.values():
            total += corpus.characters * _BYTES_A_CHARACTER
            own = corpus.session.loaded_model
            if own is not None and self._find_hot(own) is None:
                total += weights_bytes(own)
        return total

    def _evict(self, need: int) -> None:
        """Lets the least recently used leave, as long as `need` more bytes do not fit."""
        left = False
        while self._bytes() + need > self._settings.memory_bytes and self._evict_one():
            left = True
        if left:
            # Models hold references in circles; their memory is needed now.
            gc.collect()

    def _evict_one(self) -> bool:
        """Lets the one leave that nobody uses and that was used longest ago."""
        victims: list[tuple[int, Callable[[], object]]] = []
        needed = []
        for name, corpus in self._corpora.items():
            needed.append(corpus.session.loaded_model)
            if not corpus.users:
                victims.append((corpus.used, lambda name=name: self._corpora.pop(name)))  # type: ignore[misc]
        for key, shared in self._models.items():
            is_needed = any(model is shared.model for model in needed)
            if not shared.users and not is_needed:
                victims.append((shared.used, lambda key=key: self._models.pop(key)))  # type: ignore[misc]
        if not victims:
            return False
        min(victims, key=lambda victim: victim[0])[1]()
        return True

    def _tick(self) -> int:
        self._clock += 1
        return self._clock


def weights_bytes(model: PreTrainedModel) -> int:
    """Returns the bytes of a model's parameters."""
    return sum(parameter.nbytes for parameter in model.parameters())


def _count_characters(session: Session) -> int:
    try:
        return sum(info.characters for info in session.documents())
    except CorpusNotFound:
        # It is to be made.
        return 0


def _estimate_bytes(ref: str) -> int:
    """Returns about what a model will take, by its files; 0 where they do not tell."""
    folder = Path(ref)
    if not folder.is_dir():
        return 0
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
