"""A corpus together with the model and the compressor that it was made with."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from longreach.compressors.adapters import base_model
from longreach.compressors.method import Method, Value
from longreach.compressors.registry import (
    check_reference,
    default_compressor,
    find_method,
    is_untrained,
    make_compressor,
    method_named,
    restore_compressor,
)
from longreach.compressors.shipped import reference, resolve_folder
from longreach.corpus.store import Corpus
from longreach.engine.prompt import PromptBuilder
from longreach.errors import (
    CorpusExists,
    CorpusNotFound,
    FingerprintMismatch,
    StorageError,
    UsageError,
)
from longreach.jsontext import JsonObject
from longreach.models.device import check_device
from longreach.models.fingerprint import base_fingerprint
from longreach.models.loading.folder import config_of
from longreach.models.loading.load import load, load_named
from longreach.models.loading.origin import stable_reference
from longreach.models.loading.places import DEFAULT_MODEL

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Loader(Protocol):
    """Loads a model, or gives one that is loaded already and may be shared."""

    def __call__(
        self, ref: str, *, device: str | None = None, dtype: str | None = None
    ) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        """Returns a model and its tokenizer; see `longreach.load`."""


@dataclass(frozen=True)
class Workspace:
    """An open corpus, its model and tokenizer.

    Attributes:
        corpus: It can take documents where it was opened with its compressor.
        model: What reads it.
        tokenizer: The model's.
        changed: Whether a compressor has changed the model's weights, so that no other corpus may
            share it.
    """

    corpus: Corpus
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    changed: bool = False


def open_workspace(
    store: Path,
    name: str,
    *,
    model_ref: str | None = None,
    compressor_ref: str | None = None,
    device: str | None = None,
    compressing: bool = True,
    dtype: str | None = None,
    loaded: Workspace | None = None,
    loader: Loader | None = None,
) -> Workspace:
    """Opens a corpus with the model and the compressor that it was made with.

    A corpus that is only read needs no compressor.

    Args:
        store: The store.
        name: The corpus.
        model_ref: Load this model instead of the one the corpus names; it must be the same one.
        compressor_ref: The folder of the corpus's trained compressor, if it has moved.
        device: Where to put the model; None takes the GPU where there is one.
        compressing: Make the compressor too, so that documents can be added.
        dtype: Of a model that only reads; None takes float32 on a CPU and bfloat16 on a GPU.
        loaded: The same corpus as it was opened to read; its model is used again where it has the
            dtype that documents are added in.
        loader: Gives models that several corpora share; None loads one for this corpus alone.

    Raises:
        CorpusNotFound: There is no such corpus.
        FingerprintMismatch: The model or compressor found is not the one the corpus was made with.
    """
    corpus = Corpus.open(store, name)
    settings = corpus.settings
    check_device(device)
    method = method_named(settings.compressor["method"])
    trained = compressor_ref or settings.compressor_ref
    if compressing and not trained and not method.untrained:
        raise UsageError(
            f"Corpus '{name}' was made with a trained compressor ({method.name}) and does not say"
            " which: name it with --compressor."
        )
    if compressing and trained:
        check_reference(trained)
    base = model_ref or settings.model_ref or DEFAULT_MODEL
    # Only a model that the caller names is fetched: what a corpus names may come from anywhere.
    own: Loader = load if model_ref else load_named
    bring = loader or own
    # Weights that a compressor changes are no other corpus' business.
    if trained and _merges(method, trained):
        bring = own
    # The config alone tells most wrong models apart, in no time.
    _check_outline(corpus, Path(base))
    if loaded and not loaded.changed and dtype_of(loaded.model) == settings.dtype:
        model = loaded.model
        tokenizer = loaded.tokenizer
    else:
        # Memories are added in the dtype of those that are there; to read, any will do.
        wanted = settings.dtype if compressing else dtype
        model, tokenizer = bring(base, device=device, dtype=wanted)
    # It refuses what could not be asked, before hours of work.
    PromptBuilder(model, tokenizer)
    changed = False
    # Most methods leave the model alone, and a fingerprint reads every one of its weights.
    if trained and method.changes_model:
        changed = base_fingerprint(model, tokenizer) != settings.model_fingerprint
        # A corpus of an earlier release: its adapter was merged, and the shared model stays bare.
        if changed and loader is not None and bring is loader:
            wanted = settings.dtype if compressing else dtype_of(model)
            model, tokenizer = own(base, device=str(model.device), dtype=wanted)
    # To read, only a compressor that changes the model is needed: an adapter lies in the corpus.
    if not compressing and not changed:
        return Workspace(corpus, model, tokenizer)
    compressor = restore_compressor(
        settings.compressor, trained, model, tokenizer, settings.model_fingerprint
    )
    if compressing:
        corpus = Corpus.open(store, name, compressor)
    return Workspace(corpus, compressor.model, compressor.tokenizer, changed)


def _merges(method: Method, trained: str) -> bool:
    """Whether the trained compressor changes the weights of its model when it is loaded."""
    # What a corpus was made with may have moved, and then it is refused later where it is needed.
    found = method.changes_model and resolve_folder(trained).is_dir()
    return found and method.compressor().merges(trained)


def _check_outline(corpus: Corpus, folder: Path) -> None:
    """Refuses a folder whose config shows that its model is another one.

    That takes no time, where its weights would have to be loaded for their fingerprint.

    Raises:
        FingerprintMismatch: Its vectors have another size.
    """
    # Nothing to look at in a hub id or a GGUF file: there the fingerprint decides.
    if not (folder / "config.json").is_file():
        return
    made = corpus.settings.dim
    config = config_of(folder).get_text_config()
    # Some models have embeddings of another size than their layers.
    size = getattr(config, "word_embed_proj_dim", None) or getattr(config, "hidden_size", made)
    if size != made:
        raise FingerprintMismatch(
            f"The vectors of corpus '{corpus.name}' have {made} numbers, and the model in"
            f" '{folder}' reads vectors of {size}: give the model that the corpus was made with"
            " (--model)."
        )


def open_or_create(
    store: Path,
    name: str,
    *,
    model_ref: str | None = None,
    compressor_ref: str | None = None,
    device: str | None = None,
    loaded: Workspace | None = None,
    loader: Loader | None = None,
    **settings: Value,
) -> Workspace:
    """Opens a corpus to add documents, or makes it with the compressor described.

    Arguments and errors are those of `open_workspace`.

    Args:
        **settings: Options of the compressor.

    Raises:
        UsageError: The corpus exists, and its compressor has other settings.
    """
    try:
        corpus = Corpus.open(store, name)
    except CorpusNotFound:
        corpus = None
    if corpus is not None:
        check_settings(corpus, compressor_ref, settings)
        return open_workspace(
            store,
            name,
            model_ref=model_ref,
            compressor_ref=trained_reference(compressor_ref),
            device=device,
            loaded=loaded,
            loader=loader,
        )
    check_device(device)
    ref = compressor_ref or default_compressor(model_ref or DEFAULT_MODEL)
    find_method(ref).check(settings)
    _check_writable(store)
    # The corpus stores this, so it has to hold from any working directory.
    trained = None if is_untrained(ref) else reference(ref)
    base = model_ref or DEFAULT_MODEL
    if trained and not model_ref:
        base = base_model(resolve_folder(ref))
    bring: Loader = load if model_ref else load_named
    if loader is not None and not (trained and _merges(find_method(ref), trained)):
        bring = loader
    model, tokenizer = bring(base, device=device)
    PromptBuilder(model, tokenizer)
    compressor = make_compressor(ref, model, tokenizer, **settings)
    try:
        corpus = Corpus.create(
            store, name, compressor, model_ref=stable_reference(base), compressor_ref=trained or ""
        )
    except CorpusExists:
        # Another process was faster while the model was loaded; what it made with other settings is
        # refused.
        if name not in Corpus.names(store):
            raise
        corpus = Corpus.open(store, name, compressor)
    return Workspace(corpus, compressor.model, compressor.tokenizer)


def check_settings(
    corpus: Corpus, compressor_ref: str | None, settings: Mapping[str, Value]
) -> None:
    """Checks what is said about the compressor of a corpus that exists.

    Args:
        corpus: The corpus.
        compressor_ref: The compressor that it is said to be made with; None where nothing is said.
        settings: Options of that compressor.

    Raises:
        UsageError: The corpus was made with another compressor, or with other options.
    """
    made = corpus.settings.compressor
    method = method_named(made["method"])
    asked: JsonObject = dict(settings)
    if compressor_ref is not None and is_untrained(compressor_ref):
        asked["method"] = compressor_ref
    elif compressor_ref and not corpus.settings.compressor_ref and method.untrained:
        # The corpus was made without training, so every trained compressor is another one.
        asked["method"] = "a trained compressor"
    differing = []
    if asked.get("method", method.name) == method.name:
        known = {option.name for option in method.options}
        for name in settings:
            if name not in known:
                differing.append(f"{method.name}, which has no {name}")
        if not differing:
            method.check(settings)
            # Descriptions may use other words than options: a ratio is stored as a number of
            # vectors.
            asked = method.compressor().describe_options(asked, made)
    if not differing:
        for name, value in asked.items():
            if made.get(name) != value:
                differing.append(f"{name} {made.get(name)}")
    if differing:
        raise UsageError(
            f"Corpus '{corpus.name}' was made with {', '.join(differing)}: omit that option,"
            " or name another corpus."
        )


def trained_reference(compressor_ref: str | None) -> str | None:
    """Returns the reference of a compressor if it is a trained one, which may have moved."""
    if compressor_ref is None or is_untrained(compressor_ref):
        return None
    return compressor_ref


def dtype_of(model: "PreTrainedModel") -> str:
    """Returns the dtype of a model as a corpus names it, such as "float32"."""
    return str(model.dtype).removeprefix("torch.")


def _check_writable(store: Path) -> None:
    """Raises StorageError for a store that refuses files, before a model is loaded for nothing."""
    try:
        store.mkdir(parents=True, exist_ok=True)
        # The right to write into a folder is worth nothing without the right to enter it.
        reason = None if os.access(store, os.W_OK | os.X_OK) else "Permission denied"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise StorageError(
            f"The store '{store}' cannot be written to ({reason}): give another folder with"
            " --store."
        )
