"""A prompt as embeddings: summary vectors and raw text inside the model's own chat template.

Text from documents and users never becomes a special token: a passage that contains "<|im_end|>" is
read as those ten characters. (Tokens that a tokenizer adds without marking them special are
ordinary words.)

Shapes: T positions, d hidden size.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch

from longreach.engine.chat import render_chat
from longreach.engine.pieces import PromptText, RawText
from longreach.engine.request import stop_tokens
from longreach.engine.sampling import REQUEST
from longreach.engine.turns import Turn, frame_turns
from longreach.errors import ModelError
from longreach.models.decoder import check_readable, check_tokens, embedding_weight
from longreach.models.sharing import encode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Words of a user that a template has to keep as they are, in both cases, over two lines.
_SLOT = "\u27e6Longreach\nslot\u27e7"
_SEPARATOR = "\n\n"
# Other words, to find how much of a prompt does not depend on those of the user.
_OTHER = "\u00a7"


@dataclass(frozen=True)
class Prompt:
    """What a model reads for one question.

    Attributes:
        embeds: Input embeddings [T, d].
        boundaries: Positions where the prompt can be cut for reuse: what lies before is the same
            for other questions.
        vectors: Positions that are summary vectors.
        raw_tokens: Positions that are raw text of passages.
    """

    embeds: torch.Tensor
    boundaries: tuple[int, ...]
    vectors: int
    raw_tokens: int

    @property
    def cuts(self) -> tuple[int, ...]:
        """The boundaries as a `Request` takes them: ascending, none at either end."""
        inside = {cut for cut in self.boundaries if 0 < cut < len(self.embeds)}
        return tuple(sorted(inside))


class PromptBuilder:
    """Assembles [system ; vectors ; raw passages ; question] for one model.

    Models without a chat template read the same parts followed by "Answer:".

    Args:
        model: The model that reads.
        tokenizer: Its tokenizer.

    Attributes:
        frame: What stands before and after a user's words, as text.
    """

    def __init__(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
        check_readable(model)
        check_tokens(model, tokenizer)
        self._model = model
        self._embeddings = model.get_input_embeddings()
        self._tokenizer = tokenizer
        self._text = PromptText(tokenizer)
        self.frame = self._frame()
        self._head, self._tail = (
            self._text.control(self.frame[0]),
            self._text.control_after(self.frame[1]),
        )
        self._separator = self.plain(_SEPARATOR)
        self._turns: tuple[int, ...] = ()  # positions at which the last turns of the user begin
        self._joins = self._text.joins
        self._history: tuple[Turn, ...] = ()

    def following(self, turns: Sequence[Turn]) -> Self:
        """Returns a builder of prompts that follow earlier turns of a conversation.

        Raises:
            ModelError: The model's template refuses such a conversation.
        """
        if not turns:
            return self
        twin = copy.copy(self)
        twin._history = tuple(turns)
        first, *others = frame_turns(self._tokenizer, [turn.role for turn in turns])
        ids = list(self._text.control(first))
        starts = []
        said = first
        for turn, after in zip(turns, others, strict=False):
            if turn.role == "user":
                starts.append(len(ids))
            ids += [*self.plain(turn.text), *self._text.control_after(after)]
            said += turn.text + after
        twin.frame = said, others[-1]
        twin._head, twin._tail = ids, self._text.control_after(others[-1])
        # Where a user began to speak: there the last question was cut, and the next one will be.
        twin._turns = tuple(start for start in (*starts[-1:], len(ids)) if start)
        # The head holds words of users, none of which may become a special token.
        twin._joins = False
        return twin

    @property
    def head(self) -> list[int]:
        """Token ids of what every prompt begins with, before any words."""
        return list(self._head)

    def raw(self, text: str) -> RawText:
        """Token ids that a raw passage costs, with what separates it from the next part."""
        return RawText(self.plain(text) + self._separator, text)

    def fixed(self, question: str, request: str = REQUEST) -> int:
        """Positions of a prompt without any context."""
        words = self.plain(request + question)
        parts = len(self._head) + len(words) + len(self._tail)
        whole = (
            self._text.whole(self.frame[0], request + question, self.frame[1])
            if self._joins
            else None
        )
        # Either way of tokenizing may be used in the end, so the longer one is the price.
        return max(parts, len(whole or ()))

    def continuation(self, text: str) -> list[int]:
        """Returns the token ids of a text that is to be continued, with BOS where it is usual."""
        first = list(encode(self._tokenizer, "", verbose=False)["input_ids"][:1])
        # Some tokenizers put another special token before a text, or none.
        start = first if first == [self._tokenizer.bos_token_id] else []
        return [*start, *self._text.plain(text)]

    def of_ids(self, ids: Sequence[int], *, chat: bool) -> Prompt:
        """Returns the prompt of token ids.

        Args:
            ids: A user's words, or a text that is to be continued.
            chat: Whether they go into the chat template.
        """
        frame = (self._head, self._tail) if chat else ([], [])
        return Prompt(self._embed([*frame[0], *ids, *frame[1]]), (), 0, len(ids))

    def vectors_cost(self, vectors: int) -> int:
        """Returns the positions that vectors take with the separator behind them."""
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
            vectors: Summary vectors [n_i, d], scaled as they are read, in the order of reading.
            passages: Raw passages as `raw` gave them, in the order they are read.
            question: The user's words.
            request: What comes before them.
        """
        weight = embedding_weight(self._model)
        words = request + question
        # Separators are positions, but no text of passages.
        raw_tokens = sum(map(len, passages)) - len(passages) * len(self._separator)
        if not vectors:
            ids = self._ids(self._head, self.frame[0], passages, words)
            if not passages:
                return Prompt(self._embed(ids), self._turns, 0, raw_tokens)
            # What the prompts of two questions share does not depend on the question.
            other = self._ids(self._head, self.frame[0], passages, _OTHER)
            end = self._text.shared(ids, other)
            return Prompt(self._embed(ids), (end,), 0, raw_tokens)
        parts = [self._embed(self._head)]
        parts += [part.to(weight.device, weight.dtype) for part in vectors]
        read = sum(map(len, parts))
        ids = self._ids(self._separator, _SEPARATOR, passages, words, first=False)
        boundaries = []
        contexts: list[Sequence[Sequence[int]]] = [(), passages] if passages else [()]
        for context in contexts:
            other = self._ids(self._separator, _SEPARATOR, context, _OTHER, first=False)
            boundaries.append(read + self._text.shared(ids, other))
        return Prompt(
            torch.cat([*parts, self._embed(ids)]),
            tuple(boundaries),
            sum(map(len, vectors)),
            raw_tokens,
        )

    def build_behind(
        self, passages: Sequence[Sequence[int]], question: str, request: str = REQUEST
    ) -> Prompt:
        """Puts together what is read behind a memory in the KV cache, which begins the prompt.

        Earlier turns of a conversation stand behind the memory, which is part of the first one.

        Args:
            passages: See `build`.
            question: See `build`.
            request: See `build`.
        """
        words = request + question
        start = [*self._separator, *self._earlier()]
        before = _SEPARATOR
        ids = self._ids(start, before, passages, words, first=False)
        boundaries: tuple[int, ...] = ()
        if passages or self._history:
            other = self._ids(start, before, passages, _OTHER, first=False)
            boundaries = (self._text.shared(ids, other),)
        raw_tokens = sum(map(len, passages)) - len(passages) * len(self._separator)
        return Prompt(self._embed(ids), boundaries, 0, raw_tokens)

    def _earlier(self) -> list[int]:
        """Returns the token ids of earlier turns behind a memory."""
        turns = self._history
        ids: list[int] = []
        # The head of the prompt lies in the memory, so a system's words come after it.
        if turns and turns[0].role == "system":
            ids += self.plain(turns[0].text + _SEPARATOR)
            turns = turns[1:]
        if turns:
            _, *others = frame_turns(self._tokenizer, [turn.role for turn in turns])
            # What comes last is the end of the prompt.
            for turn, after in zip(turns, others[:-1], strict=True):
                ids += [*self.plain(turn.text), *self._text.control_after(after)]
        return ids

    def _ids(
        self,
        head: Sequence[int],
        before: str,
        passages: Sequence[Sequence[int]],
        words: str,
        *,
        first: bool = True,
    ) -> list[int]:
        """Returns the token ids of [before ; passages ; words ; the frame's end].

        They are no more than `fixed` and `raw` say together.

        Args:
            head: Token ids of `before`.
            before: Text before the passages.
            passages: As `raw` gave them, or cut.
            words: What the user says.
            first: Whether `before` begins the prompt; else other positions come before it.
        """
        parts = list(head)
        for ids in passages:
            parts += ids
        parts += [*self.plain(words), *self._tail]
        texts = [ids.text for ids in passages if isinstance(ids, RawText)]
        if not self._joins or len(texts) < len(passages):
            return parts
        said = "".join(text + _SEPARATOR for text in texts) + words
        whole = self._text.whole(before, said, self.frame[1], first=first)
        most = self.fixed(words, "") + sum(map(len, passages)) if first else len(parts)
        return whole if whole is not None and len(whole) <= most else parts

    def answer(self, text: str) -> list[int]:
        """Token ids of an answer as the model would write it, with what ends its turn."""
        stops, end = stop_tokens(self._model, self._tokenizer), self._tokenizer.eos_token_id
        if not self._tokenizer.chat_template:
            text = " " + text  # after "Answer:"
        else:
            said = [{"role": "user", "content": _SLOT}, {"role": "assistant", "content": _SLOT}]
            _, _, after = render_chat(self._tokenizer, said).rpartition(_SLOT)
            # A template may end a turn by a token of its own, which is not the end of a text.
            end = next((token for token in self._text.control(after) if token in stops), end)
        if end is None:
            raise ModelError(
                "The tokenizer has no token that ends an answer: give it an EOS token."
            )
        return [*self.plain(text), end]

    def _frame(self) -> tuple[str, str]:
        """What the template puts before and after a user's words."""
        if not self._tokenizer.chat_template:
            return self._tokenizer.bos_token or "", "\n\nAnswer:"
        message = {"role": "user", "content": _SLOT}
        # Hybrid reasoning models would spend their tokens on their thoughts; other templates ignore
        # the variable.
        text = render_chat(
            self._tokenizer, [message], add_generation_prompt=True, enable_thinking=False
        )
        if text.count(_SLOT) != 1:
            raise ModelError(
                "The model's chat template does not keep a user's words as they are: use a model"
                " with another template."
            )
        before, _, after = text.partition(_SLOT)
        return before, after

    def plain(self, text: str) -> list[int]:
        """Token ids of text in which nothing is a special token, as they are behind other text."""
        return self._text.plain_after(text)

    @torch.no_grad()
    def _embed(self, ids: Sequence[int]) -> torch.Tensor:
        device = embedding_weight(self._model).device
        return self._embeddings(torch.tensor(ids, dtype=torch.long, device=device))
