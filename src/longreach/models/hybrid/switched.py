"""A hybrid whose sparse layers see less, or everything, for a while: what training switches.

Nothing of it is saved: the config has its own pattern again afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from longreach.errors import UsageError
from longreach.models.decoder import decoder_of
from longreach.models.hybrid.sparse import SparseAttention, pattern_of
from longreach.models.sharing import exclusive
from longreach.pattern import AttentionPattern


def with_window(pattern: AttentionPattern, tokens: int) -> AttentionPattern:
    """Returns a pattern with a local window of a number of tokens.

    Raises:
        UsageError: They are no whole number of blocks.
    """
    blocks, rest = divmod(tokens, pattern.block_size)
    if rest or not blocks:
        raise UsageError(
            f"A window of {tokens} tokens is no whole number of blocks of {pattern.block_size}:"
            f" give a multiple of {pattern.block_size}."
        )
    return replace(pattern, local_blocks=blocks)


@contextmanager
def narrowed(model: Any, tokens: int) -> Iterator[None]:
    """Gives sparse layers another local window while this lasts, forward and backward alike.

    Args:
        model: A hybrid, bare or under PEFT.
        tokens: Of the window, a multiple of the pattern's block size.
    """
    config = model.config
    with exclusive(model):
        own = config.sparse_attention
        config.sparse_attention = asdict(with_window(pattern_of(config), tokens))
        try:
            yield
        finally:
            config.sparse_attention = own


@contextmanager
def all_full(model: Any) -> Iterator[None]:
    """Gives every layer full attention while this lasts; a model without sparse layers stays.

    Args:
        model: A causal language model, bare or under PEFT.
    """
    with exclusive(model):
        changed = []
        for layer in getattr(decoder_of(model), "layers", ()):
            attention = layer.self_attn
            if isinstance(attention, SparseAttention):
                changed.append((attention, type(attention)))
        try:
            for attention, own in changed:
                # Behind the mixin stands the family's stock class.
                attention.__class__ = own.__bases__[1]
            yield
        finally:
            for attention, own in changed:
                attention.__class__ = own
