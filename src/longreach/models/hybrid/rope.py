"""How a rotary embedding is made to reach further: arithmetic on its parameters.

Imports no torch.
"""

from __future__ import annotations

import math

from longreach.errors import UsageError
from longreach.jsontext import JsonObject, read_field
from longreach.pattern import AttentionPattern

ROPE_RULES = ("theta", "yarn", "linear")
DEFAULT_LENGTH = 131072
"""Tokens of the window of a model that becomes hybrid, unless given."""
# theta * factor ** 1.8: 10,000 becomes 5.1 million from 4K to 128K, where Fu et al. 2024 (Data
# Engineering for Scaling Language Models to 128K Context) train with 5 million.
_THETA_POWER = 1.8


def check_rope(rope: str | float) -> None:
    """Raises UsageError where `rope` is neither a rule nor a base of a rotary embedding."""
    # To Python, True and False are numbers.
    if isinstance(rope, bool) or not (rope in ROPE_RULES or isinstance(rope, int | float)):
        raise UsageError(
            f"rope is {rope!r}; give {', '.join(ROPE_RULES)} or a number, the new base."
        )
    if not isinstance(rope, str) and not (1 < rope < math.inf):
        raise UsageError(
            f"rope is {rope}; as a number it is the base of the rotary embedding, such as 5e6."
        )


def check_length(max_length: object, pattern: AttentionPattern) -> None:
    """Raises UsageError unless a window is a number of tokens, and holds a pattern's local one."""
    least = pattern.window_tokens
    if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < least:
        raise UsageError(
            f"max_length is {max_length!r}; give at least {least}, the tokens of the pattern's"
            f" local window ({pattern.local_blocks} blocks of {pattern.block_size}), or a smaller"
            " pattern."
        )


def longer_rope(
    parameters: JsonObject, window: int, max_length: int, rope: str | float = "theta"
) -> JsonObject:
    """Returns RoPE parameters that reach from `window` to `max_length` tokens.

    Args:
        parameters: Those that reach `window` tokens; transformers' `rope_parameters`.
        window: Tokens.
        max_length: Tokens; where it is not above `window`, nothing changes.
        rope: As in `convert`.

    Raises:
        UsageError: The parameters are scaled already, and `rope` would scale them again.
    """
    check_rope(rope)
    if max_length <= window:
        return parameters
    factor = max_length / window
    kind = parameters.get("rope_type", "default")
    if not isinstance(rope, str):
        return parameters | {"rope_theta": float(rope)}
    # Llama 3 scales the frequencies of whatever base there is, so it may get a new one.
    if rope == "theta" and kind in ("default", "llama3"):
        return parameters | {
            "rope_theta": read_field(parameters, "rope_theta", float) * factor**_THETA_POWER
        }
    if kind != "default":
        raise UsageError(
            f"The model's rotary embedding is already scaled ({kind}), and rope={rope!r} would"
            f" scale it again; give a number, its new base, or keep max_length at {window} or less."
        )
    longer = parameters | {"rope_type": rope, "factor": factor}
    if rope == "yarn":
        # YaRN treats a frequency by how often it turns within the length that it was trained at.
        longer["original_max_position_embeddings"] = window
    return longer
