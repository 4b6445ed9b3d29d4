"""Systems of whole texts: one model's weights under full attention, as a hybrid, or with a window.

Papers: LongGen, "A Little Goes a Long Way" (hybrid); Xiao et al. 2023, StreamingLLM (arXiv
2309.17453): attention sink and local window in every layer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from longreach.engine.generate import write_all
from longreach.engine.prompt import Prompt, PromptBuilder
from longreach.engine.request import stop_tokens
from longreach.engine.sampling import Sampling
from longreach.errors import ContextError, UsageError
from longreach.evals.run.memory import peak_memory
from longreach.evals.run.sample import Prediction, Sample
from longreach.evals.systems.base import make_prediction
from longreach.evals.systems.names import FULL, HYBRID, SINK_WINDOW
from longreach.models.decoder import window_of
from longreach.models.fingerprint import base_fingerprint
from longreach.models.hybrid.convert import convert
from longreach.models.hybrid.sparse import pattern_of, plan_of
from longreach.models.sharing import decode
from longreach.pattern import AttentionPattern
from longreach.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

UNTRAINED = "hybrid, untrained"
CHUNK_TOKENS = 16384
TooLong = Literal["refuse", "leave out", "cut", "read"]


class ModelSystem:
    """A model that reads `before + context + after` of a sample and writes on, greedily.

    A sample that asks for it is put into the model's chat template, where there is one; BOS comes
    where the tokenizer puts it. A prompt and its answer have to fit the model's window: `length` of
    a sample where it has one, so that the few positions of a template or BOS do not count, else
    what both take.

    Args:
        name: Of the system.
        model: A causal language model.
        tokenizer: Its tokenizer.
        too_long: What becomes of a sample beyond the window: "refuse" it, "leave out" (it is not
            asked), "cut" the middle of its context, or "read" it all the same.
        chunk_tokens: Positions of a prompt that are read at a time, so that memory stays bounded.
    """

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        too_long: TooLong = "refuse",
        chunk_tokens: int = CHUNK_TOKENS,
    ) -> None:
        self.name = name
        self.model = model
        self.tokenizer = tokenizer
        self.too_long = too_long
        self.chunk_tokens = chunk_tokens
        self._builder = PromptBuilder(model, tokenizer)
        self._stops = stop_tokens(model, tokenizer)
        self._window = window_of(model)

    def identity(self) -> Mapping[str, object]:
        """See `System`."""
        pattern = None
        full_layers = None
        if getattr(self.model.config, "sparse_attention", None) is not None:
            pattern = asdict(pattern_of(self.model.config))
            full_layers = list(plan_of(self.model.config).full)
        return {
            "kind": "model",
            "model_fingerprint": base_fingerprint(self.model, self.tokenizer),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "window": self._window,
            "pattern": pattern,
            "full_layers": full_layers,
            "too_long": self.too_long,
            "chunk_tokens": self.chunk_tokens,
        }

    def reads(self, sample: Sample) -> bool:
        """Whether it is asked a sample: not where that is too long and to be omitted."""
        return self.too_long != "leave out" or self.excess(sample) <= 0

    def excess(self, sample: Sample) -> int:
        """Returns the tokens by which a sample exceeds the window; 0 or less where it fits."""
        # Models without a window of their own read whatever fits into memory.
        if self._window is None:
            return 0
        # Counted by the tokenizer: no estimate decides what is cut.
        positions = len(self._ids(sample))
        if self._chat(sample):
            # The template's own words take positions as well.
            positions += self._builder.fixed("", "")
        wanted = sample.length or positions + sample.max_new_tokens
        return max(positions, wanted) - self._window

    def answer(self, samples: Sequence[Sample]) -> Iterator[Prediction]:
        """See `System`.

        Raises:
            ContextError: A sample does not fit the window.
        """
        began = time.perf_counter()
        sampling = Sampling(samples[0].max_new_tokens)
        # Made before memory is measured: what they take is not the model's.
        prompts = list(map(self._prompt, samples))
        with peak_memory(self.model.device) as peak:
            written = write_all(
                self.model,
                [prompt.embeds for prompt in prompts],
                self._stops,
                sampling,
                began=began,
                chunk_tokens=self.chunk_tokens,
            )
            most = peak()
        for prompt, own in zip(prompts, written, strict=True):
            text = decode(self.tokenizer, own.tokens, skip_special_tokens=True)
            yield make_prediction(prompt, own, text, most)

    def _chat(self, sample: Sample) -> bool:
        return sample.chat and bool(self.tokenizer.chat_template)

    def halves(self, sample: Sample) -> tuple[str, str]:
        """Returns the prompt as text: what comes before the question is known, and what after."""
        if self._chat(sample):
            # A template stands around the prompt.
            before, after = self._builder.frame
        else:
            before = self.tokenizer.bos_token if len(self._builder.continuation("")) else ""
            after = ""
        return before + sample.before + sample.context, sample.after + after

    def _ids(self, sample: Sample) -> list[int]:
        """Returns what is read, without what the chat template puts around it."""
        text = sample.before + sample.context + sample.after
        return self._builder.plain(text) if self._chat(sample) else self._builder.continuation(text)

    def fitted(self, sample: Sample) -> Sample:
        """Returns the sample as it is read: cut where it is too long and to be cut.

        Raises:
            ContextError: It is too long and to be refused.
        """
        excess = self.excess(sample)
        if excess <= 0 or self.too_long == "read":
            return sample
        if self.too_long != "cut":
            raise ContextError(
                f"The sample '{sample.id}' takes {counted(excess, 'token')} more than the model's"
                f" window of {self._window:,}: ask for a smaller --lengths, or read on with"
                " --beyond-window."
            )
        # The words around the context stay whole: they ask the question.
        context = self._builder.plain(sample.context)
        head, tail = cut_middle(context, len(context) - excess)
        return replace(sample, context=decode(self.tokenizer, head) + decode(self.tokenizer, tail))

    def _prompt(self, sample: Sample) -> Prompt:
        return self._builder.of_ids(self._ids(self.fitted(sample)), chat=self._chat(sample))


def cut_middle(ids: Sequence[int], kept: int) -> tuple[list[int], list[int]]:
    """Returns the first and the last of `ids`, `kept` of them together; the middle goes."""
    kept = max(0, min(kept, len(ids)))
    head = (kept + 1) // 2
    tail = kept - head
    # With a tail of 0, `ids[-tail:]` would be everything.
    return list(ids[:head]), list(ids[len(ids) - tail :])


def is_hybrid(model: PreTrainedModel) -> bool:
    """Whether a model attends by a pattern."""
    return getattr(model.config.get_text_config(), "sparse_attention", None) is not None


class Attending(NamedTuple):
    """A way of attending: what it is called, and the model that does it."""

    name: str
    model: PreTrainedModel


def attending(name: str, model: PreTrainedModel) -> Attending:
    """Returns the model of a way of attending: the same weights, sharing their memory.

    Of a stock model "hybrid" is its conversion, whose weights have not learned to do with less and
    which is called so; of a hybrid model "full" has full attention in every layer.

    Args:
        name: full, hybrid or sink-window.
        model: A causal language model, stock or hybrid.

    Raises:
        UsageError: There is no such system, or the model's family cannot become hybrid.
    """
    config = model.config.get_text_config()
    hybrid = is_hybrid(model)
    if name == FULL:
        if not hybrid:
            return Attending(name, model)
        # The same weights, with attention to everything in every layer.
        every_layer = config.num_hidden_layers
        return Attending(name, _convert(model, pattern_of(config), every_layer))
    # The weights of a stock model have not learned to do without the keys that are dropped.
    if name == HYBRID:
        if hybrid:
            return Attending(name, model)
        return Attending(UNTRAINED, _convert(model, None, None))
    # A hybrid keeps the blocks that it was trained with.
    if name == SINK_WINDOW:
        pattern = pattern_of(config) if hybrid else AttentionPattern.preset("sink-window")
        return Attending(name, _convert(model, replace(pattern, stride=0), 0))
    raise UsageError(
        f"There is no system '{name}' of whole texts: use {FULL}, {HYBRID} or {SINK_WINDOW}."
    )


def _convert(
    model: PreTrainedModel, pattern: AttentionPattern | None, full_layers: int | None
) -> PreTrainedModel:
    window = window_of(model)
    assert window is not None, "families that become hybrid know their window"
    # The window stays, and the rotary embedding with it, so that only attention differs.
    return convert(model, pattern, full_layers, window)
