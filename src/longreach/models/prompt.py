"""A prompt as embeddings: summary vectors and raw text inside the model's own chat template.

Text from documents and users never becomes a special token: a passage that contains "<|im_end|>" is read as those
ten characters. (Tokens that a tokenizer adds without marking them special are ordinary words.)

Shapes: T positions, d hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from longreach.errors import ModelError
from longreach.models.generate import stop_tokens
from longreach.models.sampling import REQUEST

_SLOT = "\u27e6longreach-slot\u27e7"
_SEPARATOR = "\n\n"


@dataclass(frozen=True)
class Prompt:
    """What a model reads for one question.

    Attributes:
        embeds: input embeddings [T, d].
        boundaries: positions where the prompt can be cut for reuse: what lies before is the same for other questions.
        vectors: positions that are summary vectors.
        raw_tokens: positions that are raw text of passages.
    """

    embeds: torch.Tensor
    boundaries: tuple[int, ...]
    vectors: int
    raw_tokens: int


class PromptBuilder:
    """Assembles [system ; vectors ; raw passages ; question] for one model.

    Models without a chat template read the same parts followed by "Answer:".

    Args:
        model: the model that reads.
        tokenizer: its tokenizer.
        scale: what vectors are multiplied by; see `AutoCompressor`.

    Attributes:
        frame: what stands before and after a user's words, as text.
    """

    def __init__(self, model: Any, tokenizer: Any, scale: float = 1.0) -> None:
        self._model, self._scale = model, scale
        self._embeddings = model.get_input_embeddings()
        self._tokenizer = tokenizer
        self.frame = self._frame()
        self._head, self._tail = map(self._control, self.frame)
        self._separator = self.plain(_SEPARATOR)

    def raw(self, text: str) -> list[int]:
        """Token ids that a raw passage costs, with what separates it from the next part."""
        return self.plain(text) + self._separator

    def fixed(self, question: str, request: str = REQUEST) -> int:
        """Positions of a prompt without any context."""
        return len(self._head) + len(self.plain(request + question)) + len(self._tail)

    def continuation(self, text: str) -> list[int]:
        """Token ids of a text that is to be gone on with as it is; BOS first where the tokenizer puts it."""
        first = list(self._tokenizer("", verbose=False)["input_ids"][:1])
        return [*(first if first == [self._tokenizer.bos_token_id] else ()), *self.plain(text)]

    def of_ids(self, ids: Sequence[int], *, chat: bool) -> Prompt:
        """The prompt of token ids: a user's words inside the chat template, or what is to be gone on with."""
        frame = (self._head, self._tail) if chat else ([], [])
        return Prompt(self._embed([*frame[0], *ids, *frame[1]]), (), 0, len(ids))

    def vectors_cost(self, vectors: int) -> int:
        """Positions that so many summary vectors cost, with what separates them from the next part."""
        return vectors + len(self._separator) if vectors else 0

    def build(
        self,
        vectors: Sequence[torch.Tensor],
        passages: Sequence[Sequence[int]],
        question: str,
        request: str = REQUEST,
    ) -> Prompt:
        """Puts a prompt together.

        Args:
            vectors: summary vectors [n_i, d], in the order they are read.
            passages: raw passages as `raw` gave them, in the order they are read.
            question: the user's words.
            request: what comes before them.
        """
        weight = self._embeddings.weight
        parts = [self._embed(self._head)]
        boundaries = []
        if vectors:
            parts += [self._scale * part.to(weight.device, weight.dtype) for part in vectors]
            parts.append(self._embed(self._separator))
            boundaries.append(sum(map(len, parts)))
        if passages:
            parts += [self._embed(ids) for ids in passages]
            boundaries.append(sum(map(len, parts)))
        parts += [self._embed(self.plain(request + question)), self._embed(self._tail)]
        raw_tokens = sum(map(len, passages)) - len(passages) * len(self._separator)
        return Prompt(torch.cat(parts), tuple(boundaries), sum(map(len, vectors)), raw_tokens)

    def answer(self, text: str) -> list[int]:
        """Token ids of an answer as the model would write it, with what ends its turn."""
        stops, end = stop_tokens(self._model, self._tokenizer), self._tokenizer.eos_token_id
        if not self._tokenizer.chat_template:
            text = " " + text  # after "Answer:"
        else:
            said = [{"role": "user", "content": _SLOT}, {"role": "assistant", "content": _SLOT}]
            _, _, after = self._tokenizer.apply_chat_template(said, tokenize=False).rpartition(_SLOT)
            end = next((token for token in self._control(after) if token in stops), end)
        if end is None:
            raise ModelError("The tokenizer has no token that ends an answer: give it an EOS token.")
        return [*self.plain(text), end]

    def _frame(self) -> tuple[str, str]:
        """What the template puts before and after a user's words."""
        if not self._tokenizer.chat_template:
            return self._tokenizer.bos_token or "", "\n\nAnswer:"
        message = {"role": "user", "content": _SLOT}
        # Hybrid reasoning models would spend their tokens on thinking aloud; other templates ignore the variable.
        text = self._tokenizer.apply_chat_template(
            [message], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        if text.count(_SLOT) != 1:
            raise ModelError(
                "The model's chat template does not keep a user's words: use a model with another template."
            )
        before, _, after = text.partition(_SLOT)
        return before, after

    def _control(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def plain(self, text: str) -> list[int]:
        """Token ids of text in which nothing is a special token."""
        encoded = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return list(encoded["input_ids"])

    @torch.no_grad()
    def _embed(self, ids: Sequence[int]) -> torch.Tensor:
        return self._embeddings(torch.tensor(ids, dtype=torch.long, device=self._embeddings.weight.device))
