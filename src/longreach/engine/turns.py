"""The turns of a conversation, and the text that the model's chat template puts around them.

Only slots reach the template, never words of a user: what a turn says is put in their places
afterwards, as plain text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from longreach.engine.chat import render_chat
from longreach.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Role = Literal["system", "user", "assistant"]

_SEPARATOR = "\n\n"
# What follows the words of each role where a model has no template.
_AFTER = {"system": _SEPARATOR, "user": "\n\nAnswer: ", "assistant": _SEPARATOR}


@dataclass(frozen=True)
class Turn:
    """What was said in a conversation at one time.

    Attributes:
        role: Who said it: "system", "user" or "assistant".
        text: What was said.
    """

    role: Role
    text: str


def frame_turns(tokenizer: PreTrainedTokenizerBase, roles: Sequence[Role]) -> list[str]:
    """Returns the text around the words of turns and of the user who speaks last.

    It has one entry more than there are words: those before each of them, and the end, after
    which the model speaks.

    Args:
        tokenizer: The model's.
        roles: Of the turns before the last one.

    Raises:
        ModelError: The template refuses such a conversation.
    """
    if not tokenizer.chat_template:
        start = str(tokenizer.bos_token or "")
        return [start, *(_AFTER[role] for role in roles), "\n\nAnswer:"]
    try:
        return _render_frame(tokenizer, roles)
    except ModelError:
        # Some templates know no system: it is then told by the user, before anything else.
        if not roles or roles[0] != "system":
            raise
        first, *rest = frame_turns(tokenizer, roles[1:])
        return [first, _SEPARATOR, *rest]


def _render_frame(tokenizer: PreTrainedTokenizerBase, roles: Sequence[Role]) -> list[str]:
    slots = [f"\u27e6Longreach\nslot {number}\u27e7" for number in range(len(roles) + 1)]
    messages = []
    for role, slot in zip([*roles, "user"], slots, strict=True):
        messages.append({"role": role, "content": slot})
    rest = render_chat(tokenizer, messages, add_generation_prompt=True, enable_thinking=False)
    pieces = []
    for slot in slots:
        before, found, rest = rest.partition(slot)
        # A template may repeat, change or reorder what was said.
        if not found or slot in rest:
            raise ModelError(
                "The model's chat template does not keep the turns of a conversation as they are:"
                " ask without earlier turns, or use a model with another template."
            )
        pieces.append(before)
    return [*pieces, rest]
