"""Every method of compressing by its name, and what a reference to a compressor means.

A reference is the name of a method that needs no training, the name of a compressor that ships, or
the folder of a trained one. Imports no torch until a compressor is made.

A package of your own adds a method either with `register`, or for every process with an entry point
of the group `longreach.compressors` that names a `Method`.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longreach.compressors.autocompressor.options import AUTOCOMPRESSOR
from longreach.compressors.kvzip.options import KVZIP
from longreach.compressors.method import Method, Option
from longreach.compressors.shipped import resolve_folder, settings_of, shipped, shipped_for
from longreach.compressors.untrained import MEAN_POOL
from longreach.compressors.weighted_pool.options import WEIGHTED_POOL
from longreach.errors import UsageError
from longreach.installed import load_announced
from longreach.jsontext import JsonValue, read_field

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from longreach.compressors.base import Compressor

__all__ = [
    "Method",
    "Option",
    "check_reference",
    "default_compressor",
    "find_method",
    "find_trained",
    "make_compressor",
    "method_named",
    "methods",
    "register",
    "restore_compressor",
    "trained_methods",
    "unregister",
]

ENTRY_POINTS = "longreach.compressors"
_BUILT_IN = (MEAN_POOL, KVZIP, AUTOCOMPRESSOR, WEIGHTED_POOL)
# What reads a folder that does not say of which method it is: the published layouts.
_PUBLISHED = AUTOCOMPRESSOR
_DEFAULT = MEAN_POOL
DEFAULT_TRAINED = AUTOCOMPRESSOR.name
"""The method that `pretrain` trains where none is named."""
_registered: dict[str, Method] = {}


def register(method: Method) -> None:
    """Adds a method from outside of the package, for this process.

    Raises:
        UsageError: Another method, or a compressor that ships, has its name.
    """
    # The same declaration again is no other method: modules may be imported twice.
    if methods().get(method.name, method) != method or method.name in shipped():
        raise UsageError(f"There is a compressor '{method.name}' already: choose another name.")
    _registered[method.name] = method


def unregister(name: str) -> None:
    """Removes a method that was added with `register`, if it was."""
    _registered.pop(name, None)


def methods() -> dict[str, Method]:
    """Returns all methods by name: those of the package, of entry points, and registered ones."""
    found = {method.name: method for method in (*_BUILT_IN, *_announced())}
    return found | _registered


@cache
def _announced() -> tuple[Method, ...]:
    """Returns the methods that installed packages announce as entry points."""
    found = []
    for entry in load_announced(ENTRY_POINTS, "compressor"):
        # An entry point may name anything.
        if isinstance(entry.loaded, Method):
            found.append(entry.loaded)
    return tuple(found)


def method_named(name: str) -> Method:
    """Returns the method of this name.

    Raises:
        UsageError: There is none.
    """
    known = methods()
    if name not in known:
        raise UsageError(f"There is no method '{name}': use one of {', '.join(known)}.")
    return known[name]


def trained_methods() -> dict[str, Method]:
    """Returns the methods that can be trained, by name."""
    return {name: method for name, method in methods().items() if method.training}


def find_trained(name: str) -> Method:
    """Returns the method of this name, to train a compressor.

    Raises:
        UsageError: There is none that can be trained.
    """
    known = trained_methods()
    if name not in known:
        raise UsageError(f"method is '{name}'; it must be one of {', '.join(known)}.")
    return known[name]


def is_untrained(ref: str) -> bool:
    """Returns whether a reference names a method that needs no training."""
    method = methods().get(ref)
    return method is not None and method.untrained


def check_reference(ref: str) -> None:
    """Raises UsageError where no method, no compressor that ships and no folder has this name."""
    if is_untrained(ref) or ref in shipped() or Path(ref).is_dir():
        return
    untrained = [name for name in methods() if is_untrained(name)]
    known = ", ".join([*untrained, *shipped()])
    raise UsageError(
        f"There is no compressor '{ref}': use one of {known}, or the folder of a trained one."
    )


def find_method(ref: str) -> Method:
    """Returns the method of the compressor that a reference means.

    Raises:
        UsageError: There is no such compressor, or its method is unknown.
        ModelError: The settings in its folder are damaged.
    """
    check_reference(ref)
    # A folder that has the name of a method is named by a path, such as ./mean-pool.
    if is_untrained(ref):
        return methods()[ref]
    return method_named(str(settings_of(resolve_folder(ref)).get("method", _PUBLISHED.name)))


def default_compressor(model_ref: str) -> str:
    """Returns the reference of the compressor that serves a model best, untrained by the user."""
    return shipped_for(model_ref) or _DEFAULT.name


def make_compressor(
    ref: str, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", **settings: Any
) -> "Compressor":
    """Returns the compressor that a reference means.

    Args:
        ref: See the module.
        model: The model that it compresses for.
        tokenizer: Its tokenizer.
        **settings: Options of the method.

    Raises:
        UsageError: There is no such compressor, or it has no such option.
        ModelError: The folder of a trained one is damaged, or belongs to another model.
    """
    method = find_method(ref)
    method.check(settings)
    kind = method.compressor()
    if is_untrained(ref):
        return kind.untrained(model, tokenizer, **settings)
    return kind.from_pretrained(ref, model, tokenizer, **settings)


def restore_compressor(
    described: Mapping[str, JsonValue],
    trained: str,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    fingerprint: str,
) -> "Compressor":
    """Returns the compressor that once described itself so.

    Args:
        described: What its `describe` gave.
        trained: The reference of a trained one; empty for others.
        model: The model that it compresses for.
        tokenizer: Its tokenizer.
        fingerprint: The model fingerprint of the corpus that it made.
    """
    # A description holds more than options, such as a scale: it is not checked against them.
    settings: dict[str, Any] = dict(described)
    name = read_field(described, "method", str)
    del settings["method"]
    method = find_method(trained) if trained else method_named(name)
    kind = method.compressor()
    try:
        if trained:
            return kind.restore(trained, model, tokenizer, fingerprint, **settings)
        return kind.untrained(model, tokenizer, **settings)
    except TypeError as error:
        # A corpus of another release may describe options that this one does not have.
        raise UsageError(
            f"The compressor '{trained or name}' does not take all of {', '.join(settings)}:"
            f" {error}."
        ) from error
