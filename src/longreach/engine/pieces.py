"""Token ids of the parts of a prompt, as they are in one text.

SentencePiece and its kin mark the beginning of a text as that of a word: a part that is cut into
tokens by itself gets a mark that it does not have inside a prompt, and what stands on both sides of
a cut is not merged. For such tokenizers a prompt is one text; all others take parts as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from longreach.models.sharing import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_MARK = "\u2581"  # SentencePiece's blank
# Stands before a text, so that it does not begin one; checked to stay a token, or tokens, of its
# own.
_ANCHORS = ("a", "x", "0", ".")


class RawText(list[int]):
    """Token ids of a passage with what separates it from the next part, and its text."""

    def __init__(self, ids: Iterable[int], text: str) -> None:
        super().__init__(ids)
        self.text = text


class PromptText:
    """Cuts the text of prompts into tokens.

    Args:
        tokenizer: The model's tokenizer.

    Attributes:
        joins: Whether parts have to be joined before they are cut.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        described = "" if backend is None else f"{backend.normalizer} {backend.pre_tokenizer}"
        # A tokenizer without a backend does not tell, and most of those are SentencePiece.
        self.joins = backend is None or _MARK in described
        # Whatever of these stands in a text becomes one token, special or not.
        self._added = [
            str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values()
        ]

    def control(self, text: str) -> list[int]:
        """Token ids of a template's text, special tokens included, at the beginning of a prompt."""
        return list(
            encode(self._tokenizer, text, add_special_tokens=False, verbose=False)["input_ids"]
        )

    def control_after(self, text: str) -> list[int]:
        """Token ids of a template's text behind other text."""
        return self._after(self.control, text)

    def plain(self, text: str) -> list[int]:
        """Token ids of text in which nothing is a special token, at the beginning of a text."""
        encoded = encode(
            self._tokenizer,
            text,
            add_special_tokens=False,
            split_special_tokens=True,
            verbose=False,
        )
        return list(encoded["input_ids"])

    def plain_after(self, text: str) -> list[int]:
        """Token ids of text in which nothing is a special token, behind other text."""
        return self._after(self.plain, text)

    def whole(self, before: str, said: str, after: str, *, first: bool = True) -> list[int] | None:
        """Returns the token ids of all three as one text, or None.

        Args:
            before: Text of the template.
            said: Words of others; None is returned where they hold control tokens.
            after: Text of the template.
            first: Whether `before` begins the prompt.
        """
        if any(token in said for token in self._added if token):
            return None
        cut = self.control if first else self.control_after
        return cut(before + said + after)

    @staticmethod
    def shared(ids: Sequence[int], other: Sequence[int]) -> int:
        """How many ids two prompts have in common from their beginning on."""
        count = 0
        for one, two in zip(ids, other, strict=False):
            if one != two:
                break
            count += 1
        return count

    def _after(self, cut: Callable[[str], list[int]], text: str) -> list[int]:
        if not self.joins or not text:
            return cut(text)
        for anchor in _ANCHORS:
            start, ids = cut(anchor), cut(anchor + text)
            if ids[: len(start)] == start:
                return ids[len(start) :]
        return cut(text)
