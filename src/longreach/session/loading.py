"""What of a session is loaded when: the corpus at once, its model and its compressor when needed.

Imports no torch.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING

from longreach.corpus.store import Corpus
from longreach.errors import UsageError
from longreach.reading.policy import Policy

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from longreach.caches.prefix import PrefixCache
    from longreach.compressors.method import Value
    from longreach.reading.reader import Reader
    from longreach.session.workspace import Loader, Workspace


class OpenCorpus:
    """A corpus with what is loaded for it, once, whichever threads ask for it.

    A server gives `loader`, so that corpora share models, and `find_hot`, so that the readers of a
    model share KV caches of contexts.

    Attributes:
        name: The corpus.
        store: Where corpora live.
    """

    def __init__(
        self,
        name: str,
        store: Path,
        *,
        model: str | None,
        compressor: str | None,
        settings: "Mapping[str, Value]",
        create: bool,
        adapter: Path | None,
        policy: Policy | None,
        device: str | None,
        dtype: str | None,
        loader: "Loader | None" = None,
        find_hot: "Callable[[PreTrainedModel], PrefixCache | None] | None" = None,
    ) -> None:
        self.name = name
        self.store = store
        self._model_ref = model
        self._compressor_ref = compressor
        self._settings = settings
        self._adapter = adapter
        self._policy = policy
        self._device = device
        self._dtype = dtype
        self._loader = loader
        self._find_hot = find_hot or _find_none
        self._closed = False
        # What is loaded late is loaded once, whichever threads ask for it.
        self._loading = RLock()
        self._workspace: Workspace | None = None
        self._reader: Reader | None = None
        # How often a reader that was being made has become an earlier one.
        self._changes = 0
        self._corpus: Corpus | None = None
        # A corpus that is to be made may be missing until the first `add`.
        if not create or name in Corpus.names(store):
            self._corpus = Corpus.open(store, name)
            # What a caller says about the compressor has to hold for the corpus that is there.
            if compressor is not None or settings:
                from longreach.session.workspace import check_settings

                check_settings(self._corpus, compressor, settings)

    @property
    def corpus(self) -> Corpus:
        """The corpus.

        Raises:
            CorpusNotFound: It is to be made, and `add` has not made it yet.
        """
        self.check_open()
        # Another process may have made the corpus since this session was opened.
        return self._corpus or Corpus.open(self.store, self.name)

    @property
    def model(self) -> "PreTrainedModel":
        """The model that answers, loaded at the first need."""
        return self._load().model

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Its tokenizer."""
        return self._load().tokenizer

    @property
    def reader(self) -> "Reader":
        """What answers questions, with the adapter and the policy that `study` found best."""
        from longreach.reading.reader import Reader

        while True:
            with self._loading:
                if self._reader is not None:
                    return self._reader
                loaded = self._load()
                corpus = self.corpus
                changes = self._changes
            # Made without the lock of this session: it takes that of the model, and whoever holds
            # that one may be about to ask here too.
            made = Reader(
                corpus,
                loaded.model,
                loaded.tokenizer,
                self._adapter,
                policy=self._policy,
                hot=self._find_hot(loaded.model),
            )
            with self._loading:
                # One that was made of what has changed meanwhile is made again.
                if changes == self._changes and self._reader is None:
                    self._reader = made

    @property
    def loaded_model(self) -> "PreTrainedModel | None":
        """The model, where it is loaded already."""
        workspace = self._workspace
        return None if workspace is None else workspace.model

    def close(self) -> None:
        """Releases the model. The corpus is whole on the disk at any time; closing writes nothing.

        Answers that are being written in other threads are written to their end.
        """
        with self._loading:
            self._closed = True
            # Let go, not stopped: threads that still write answers hold what they need themselves.
            self._workspace = None
            self._drop_reader()

    def check_open(self) -> None:
        """Raises UsageError where the session is closed."""
        if self._closed:
            raise UsageError(f"The session of corpus '{self.name}' is closed: open another one.")

    def _load(self) -> "Workspace":
        """Returns the corpus with the model it is read with, which is loaded now if it was not."""
        from longreach.session.workspace import open_workspace, trained_reference

        with self._loading:
            corpus = self.corpus
            if self._workspace is None:
                self._workspace = open_workspace(
                    self.store,
                    self.name,
                    model_ref=self._model_ref,
                    compressor_ref=trained_reference(self._compressor_ref),
                    device=self._device,
                    compressing=False,
                    dtype=self._dtype,
                    loader=self._loader,
                )
                self._corpus = self._corpus or corpus
            return self._workspace

    def open_to_add(self) -> Corpus:
        """Returns the corpus with its compressor, which is loaded now if it was not."""
        from longreach.session.workspace import open_or_create

        with self._loading:
            self.check_open()
            if self._corpus is None or self._corpus.compressor is None:
                opened = open_or_create(
                    self.store,
                    self.name,
                    model_ref=self._model_ref,
                    compressor_ref=self._compressor_ref,
                    device=self._device,
                    # A model that was loaded to answer is used again where its dtype is the right
                    # one.
                    loaded=self._workspace,
                    loader=self._loader,
                    **self._settings,
                )
                # The reader is tied to the model that was loaded before; the next question makes
                # another.
                if self._workspace is None or opened.model is not self._workspace.model:
                    self._drop_reader()
                self._workspace = opened
                self._corpus = opened.corpus
            return self._corpus

    def forget_reader(self) -> None:
        """Has the next question read with the adapter and the scorecard that are there then."""
        with self._loading:
            self._drop_reader()

    def _drop_reader(self) -> None:
        self._reader = None
        self._changes += 1


def _find_none(model: "PreTrainedModel") -> None:
    """Has each reader keep KV caches of its own."""
