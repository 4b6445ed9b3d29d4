"""Reading a prompt of embeddings and writing tokens after it, one step at a time.

Unlike `model.generate` it takes embeddings after a KV cache, yields each token as it comes, and
reads right away. Shapes: B prompts, T positions of a prompt, d hidden size, V vocabulary.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from longreach.engine.sampling import Sampling
from longreach.models.cached import CACHE, cache_in
from longreach.models.sharing import exclusive
from longreach.models.steps import Steps, require_read
from longreach.models.switching import SwitchingSteps, steps_for

# Makes what is switched on a model for one forward, and is under the model's lock.
Switch = Callable[[], AbstractContextManager[None]]


def stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Token ids after which the model has finished speaking."""
    eos = model.generation_config.eos_token_id
    known = eos if isinstance(eos, list) else [eos]
    return frozenset(token for token in [*known, tokenizer.eos_token_id] if token is not None)


@torch.no_grad()
def read_prefix(model: Any, embeds: torch.Tensor, cache: Any = None) -> Any:
    """Reads embeddings [T, d] after `cache` and returns the KV cache that holds both (`cache`
    itself, extended)."""
    past = cache.get_seq_length() if cache is not None else 0
    positions = torch.arange(past, past + len(embeds), device=embeds.device)[None]
    with exclusive(model):
        output = model(
            inputs_embeds=embeds[None],
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{CACHE: cache},
        )
    cache = cache_in(output)
    require_read(model, cache, past + len(embeds))
    return cache


@torch.no_grad()
def write_tokens(
    model: Any,
    prompts: Sequence[torch.Tensor],
    stops: frozenset[int],
    sampling: Sampling,
    cache: Any = None,
    *,
    chunk_tokens: int | None = None,
    watch: Callable[[Steps | SwitchingSteps], None] = lambda steps: None,
    around: Switch = nullcontext,
) -> Iterator[list[int | None]]:
    """Reads prompts and yields, step by step, one token id a prompt; None where a prompt's answer
    has ended.

    Prompts of unequal length are padded on the left and masked, so that a prompt's answer is the
    same in any company.

    Args:
        model: a causal language model.
        prompts: embeddings, [T_i, d] each, T_i >= 1.
        stops: token ids that end an answer; they are not yielded.
        sampling: how to choose.
        cache: KV cache of a prefix before a single prompt; it is taken over.
        chunk_tokens: positions of the prompts read at a time, which bounds what layers hold
            meanwhile; None reads them in one piece.
        watch: is given the steps before they begin.
        around: entered anew for each forward, such as `partial(only_adapter, model, name)`; between
            two of them other threads may switch and use the model.
    """
    device, rows = prompts[0].device, len(prompts)
    assert rows == 1 or cache is None, "a prefix belongs to one prompt"
    longest = max(len(prompt) for prompt in prompts)
    padding = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
    batch = torch.stack(
        [torch.nn.functional.pad(prompt, (0, 0, longest - len(prompt), 0)) for prompt in prompts]
    )
    past = cache.get_seq_length() if cache is not None else 0
    steps = steps_for(model, past + longest + sampling.max_new_tokens - 1, cache=cache)
    watch(steps)
    # Padding has to lie in the first chunk, with a token of every row behind it.
    first = min(longest, max(chunk_tokens or longest, int(padding.max()) + 1))
    mask = (torch.arange(first, device=device)[None] >= padding[:, None]).long()
    with around():
        logits = steps.read(inputs_embeds=batch[:, :first], attention_mask=mask)
    for start in range(first, longest, chunk_tokens or longest):
        with around():
            logits = steps.read(inputs_embeds=batch[:, start : start + (chunk_tokens or longest)])
    choose = _Chooser(sampling, rows, device)
    ended = [False] * rows
    for step in range(sampling.max_new_tokens):
        tokens = choose(logits)
        ended = [done or token in stops for done, token in zip(ended, tokens.tolist(), strict=True)]
        if all(ended):
            return
        yield [None if done else token for done, token in zip(ended, tokens.tolist(), strict=True)]
        if step + 1 < sampling.max_new_tokens:
            with around():
                logits = steps.step(tokens)


@dataclass(frozen=True)
class Written:
    """One prompt's answer, and what it took.

    Attributes:
        tokens: token ids, without the one that ended them.
        first_token_seconds, seconds: from when the answers were asked for to its first and its last
            token; all answers of a batch are asked for together.
        kv_bytes: its share of the keys and values that are held when the batch is written.
    """

    tokens: list[int]
    first_token_seconds: float
    seconds: float
    kv_bytes: int


def write_all(
    model: Any,
    prompts: Sequence[torch.Tensor],
    stops: frozenset[int],
    sampling: Sampling,
    *,
    began: float | None = None,
    chunk_tokens: int | None = None,
    around: Switch = nullcontext,
) -> list[Written]:
    """Whole answers of a batch; arguments as in `write_tokens`.

    Args:
        model: a causal language model.
        prompts: embeddings, [T_i, d] each.
        stops: token ids that end an answer.
        sampling: how to choose.
        began: when the answers were asked for, on `time.perf_counter`; None for now.
        chunk_tokens: positions read at a time.
        around: entered anew for each forward.
    """
    began = time.perf_counter() if began is None else began
    held: list[Steps | SwitchingSteps] = []
    tokens: list[list[int]] = [[] for _ in prompts]
    times: list[list[float]] = [[] for _ in prompts]
    steps = write_tokens(
        model, prompts, stops, sampling, chunk_tokens=chunk_tokens, watch=held.append, around=around
    )
    for step in steps:
        now = time.perf_counter() - began
        for row, token in enumerate(step):
            if token is not None:
                tokens[row].append(token)
                times[row].append(now)
    end = time.perf_counter() - began
    share = held[0].kv_bytes // len(prompts)
    return [
        Written(own, *((at[0], at[-1]) if at else (end, end)), share)
        for own, at in zip(tokens, times, strict=True)
    ]


class _Chooser:
    """Logits [B, V] to token ids [B]. Every row draws from a generator of its own, so that batches
    do not matter."""

    def __init__(self, sampling: Sampling, rows: int, device: torch.device) -> None:
        self.greedy = sampling.temperature == 0
        self.generators = [torch.Generator(device) for _ in range(rows)]
        for generator in self.generators:
            if sampling.seed is None:
                generator.seed()
            else:
                generator.manual_seed(sampling.seed)
        self.warpers = LogitsProcessorList()
        if not self.greedy:
            self.warpers.append(TemperatureLogitsWarper(float(sampling.temperature)))
            if sampling.top_k:
                self.warpers.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1:
                self.warpers.append(TopPLogitsWarper(sampling.top_p))

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        if self.greedy:
            return logits.argmax(-1)
        warped = self.warpers(None, logits.float())  # type: ignore[arg-type]  # these three read no ids
        probabilities = warped.softmax(-1)
        draws = [
            torch.multinomial(row, 1, generator=generator)
            for row, generator in zip(probabilities, self.generators, strict=True)
        ]
        return torch.cat(draws)
