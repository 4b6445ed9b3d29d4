"""Reading prompts and then token after token, out of a cache whose memory is taken once.

The same path for full and hybrid models, so that comparing them is fair. On a GPU a step of fixed
shapes is recorded as a CUDA graph and replayed: at one row, starting thousands of kernels takes
longer than their work. What is full attends there with the split-K decode kernel over a window that
hides nothing, because vendor kernels want the length on the host. On a CPU full layers attend with
SDPA over the filled part, the query heads of a KV head as rows of one call, so that keys and values
are read once.

Shapes: B rows, T tokens, d hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache

from longreach.caches.prefix import cache_bytes
from longreach.caches.reserved import ReservedCache
from longreach.errors import UsageError
from longreach.models.attend import STEPS, switch_attention
from longreach.models.cached import CACHE, require_filled
from longreach.models.graphs import Recorder, record_cuda_graph
from longreach.models.hybrid.names import FAMILY_NAMES, family_of
from longreach.models.hybrid.rows import PaddedRows
from longreach.models.sharing import exclusive
from longreach.wording import counted

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel


class Steps:
    """One batch of prompts, and the tokens after them.

    Any number of them, in any threads, may share a model: each `read` and `step` holds the model's
    lock.

    Args:
        model: A causal language model. Full attention and hybrid models of the Llama, Mistral,
            Qwen2 and Qwen3 families take steps of fixed shapes; all others work as they do by
            themselves.
        max_length: Slots of each row, padding and new tokens included: so much memory is taken at
            the first `read`.
        cache: KV cache of what was read before, without padding; it is taken over.
        offset: Positions that were read before and have no slot in the cache, as where entries of
            little weight were dropped; what follows stands at positions after them.
        graph: Whether to record steps as a CUDA graph; None where the model is on one GPU and
            allows it.
        compile: Run steps through torch.compile, which fuses norms and rotary embeddings; the first
            one takes minutes.
        impl: Of sparse layers, and of full ones in steps of fixed shapes: as in
            `kernels.api`.
        record: How to record; CUDA graphs where None.

    Raises:
        UsageError: A graph is asked for that cannot be recorded.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        max_length: int,
        *,
        cache: Cache | None = None,
        offset: int = 0,
        graph: bool | None = None,
        compile: bool = False,
        impl: str = "auto",
        record: Recorder | None = None,
    ) -> None:
        self.model = model
        self.max_length = max_length
        self.options = {"impl": impl} if impl != "auto" else {}
        if cache is None or not getattr(cache, "layers", None):
            cache = empty_cache(model)
        self.filled = cache.get_seq_length()
        self._offset = offset
        places = {parameter.device for parameter in model.parameters()}
        on_gpu = len(places) == 1 and model.device.type == "cuda"
        wanted = graph or record is not None
        if wanted and record is None and not on_gpu:
            raise UsageError(
                f"CUDA graphs need a model on one GPU, and this one is on {model.device}; use"
                " graph=None."
            )
        known = family_of(model.config.model_type) is not None
        recorded = graph is not False and (on_gpu or record is not None)
        self.cache = ReservedCache(cache, max_length, fixed=known and (recorded or compile))
        self.fixed = known and (recorded or compile) and self.cache.can_fix
        self.recorded = self.fixed and recorded
        self._wanted = wanted
        if wanted and not self.recorded:
            raise UsageError(
                f"Steps of a {type(model).__name__} cannot be recorded: that takes full or hybrid"
                f" attention of {', '.join(FAMILY_NAMES)}, without sliding windows; use"
                " graph=False."
            )
        self._own = known and (self.fixed or model.config._attn_implementation in ("sdpa", STEPS))
        self._record = record or partial(record_cuda_graph, device=model.device)
        # In pieces, each layer's would be another program, and soon too many: it has to be one.
        whole = on_gpu or impl == "triton"
        # A function, no method: what refers to `self` here would keep the caches until Python looks
        # for cycles.
        self._run = torch.compile(_step, dynamic=False, fullgraph=whole) if compile else _step
        # [B, filled], 1 for real tokens.
        self._padding: Tensor | None = None
        # [B, 1], of the newest tokens.
        self._positions: Tensor | None = None
        # [B], while steps are fixed.
        self._lengths: Tensor | None = None
        self._replay: Callable[[], None] | None = None

    @torch.no_grad()
    def read(
        self,
        input_ids: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Reads tokens [B, T] or embeddings [B, T, d] after all before them.

        Args:
            input_ids: [B, T].
            inputs_embeds: [B, T, d], instead.
            attention_mask: [B, T], 0 for padding, which is on the left; only for the first tokens
                of all.

        Returns:
            Logits [B, V] after the last token.

        Raises:
            UsageError: The tokens do not fit, or padding is not on the left of the first ones.
        """
        given = input_ids if input_ids is not None else inputs_embeds
        if given is None:
            raise UsageError("Give input_ids or inputs_embeds.")
        rows, new = given.shape[:2]
        self._require_slots(new)
        if self._lengths is not None:
            self._unfix()
        if attention_mask is not None:
            self._check_mask(attention_mask, rows, new)
        positions = self._find_positions(attention_mask, rows, new, given.device)
        self._positions = positions[:, -1:]
        with exclusive(self.model):
            output = self.model(
                input_ids=input_ids,
                inputs_embeds=inputs_embeds,
                attention_mask=self._padding,
                position_ids=positions,
                use_cache=True,
                logits_to_keep=1,
                **{CACHE: self.cache},
                **self.options,
            )
        self.filled += new
        require_read(self.model, self.cache, self.filled)
        return output.logits[:, -1]

    def _check_mask(self, attention_mask: Tensor, rows: int, new: int) -> None:
        """Raises UsageError unless padding is on the left of the first tokens of all."""
        if attention_mask.shape != (rows, new):
            raise UsageError(
                f"attention_mask is {tuple(attention_mask.shape)}; give {(rows, new)}, as the"
                " tokens."
            )
        if bool(attention_mask.all()):
            return
        if self.filled:
            raise UsageError(
                "Padding can only come before the first tokens; read unlike rows one by one."
            )
        if bool((attention_mask.diff(dim=1) < 0).any()):
            raise UsageError(
                "attention_mask has padding after real tokens; pad the rows on the left."
            )

    def _find_positions(
        self, attention_mask: Tensor | None, rows: int, new: int, device: torch.device
    ) -> Tensor:
        """Returns the positions [B, T] of new tokens, and notes where padding lies."""
        if attention_mask is not None and not bool(attention_mask.all()):
            self._padding = attention_mask.to(device)
            # Positions count real tokens only; those of padding have no meaning.
            return (self._padding.cumsum(1) - 1).clamp(min=0) + self._offset
        if self._padding is not None:
            self._padding = torch.cat([self._padding, self._padding.new_ones(rows, new)], 1)
            assert self._positions is not None
            return self._positions + 1 + torch.arange(new, device=device)
        first = self.position
        return torch.arange(first, first + new, device=device).expand(rows, new)

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        """Reads one more token in each row, [B], and gives the logits [B, V] after it."""
        self._require_slots(1)
        if not self.fixed:
            with self._attention():
                return self.read(tokens[:, None])
        first = self._lengths is None
        if first:
            self._fix(tokens)
        else:
            self._tokens.copy_(tokens[:, None])
        with exclusive(self.model):
            if not first and self.recorded and self._replay is None:
                self._start_recording()
            # The first step runs by itself: kernels are compiled and chosen.
            if self._replay is None:
                logits = self._run_once()
            else:
                self._replay()
                # The next replay overwrites what this one has written.
                logits = self._logits.clone()
        self.filled += 1
        return logits

    @property
    def kv_bytes(self) -> int:
        """Bytes of the keys and values that are allocated."""
        return cache_bytes(self.cache)

    @property
    def lengths(self) -> Tensor | None:
        """Tokens of each row, [B], on the device while steps are fixed; None otherwise."""
        return self._lengths

    @property
    def position(self) -> int:
        """The position of the next token."""
        return self.filled + self._offset

    def begin_step(self, tokens: Tensor) -> None:
        """Prepares for a step, of tokens [B], that is taken outside: see `models.joined`.

        Raises:
            UsageError: There is no slot left.
        """
        self._require_slots(1)
        if self.fixed and self._lengths is None:
            self._fix(tokens)

    def record(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor] | None:
        """Records a step; returns what repeats it and the logits it writes, None where it cannot.

        Raises:
            UsageError: It cannot, and it was asked for.
        """
        try:
            return self._record(run)
        # It is a RuntimeError as well, but does not mean that recording is impossible.
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            # Some quantized products read numbers back, which a graph cannot.
            if self._wanted:
                raise UsageError(
                    f"The steps of this model cannot be recorded ({error}); use graph=False."
                ) from error
            self.recorded = False
            return None

    def _require_slots(self, new: int) -> None:
        if self.filled + new > self.max_length:
            raise UsageError(
                f"{counted(new, 'token')} after {self.filled} do not fit the"
                f" {counted(self.max_length, 'slot')} that were asked for; make Steps with"
                f" max_length={self.filled + new} or more."
            )

    def _fix(self, tokens: Tensor) -> None:
        # A recorded graph reads its tokens at this address.
        self._tokens = tokens[:, None].clone()
        rows = PaddedRows.of(self._padding, self.filled)
        if rows is None:
            self._lengths = torch.full_like(tokens, self.filled)
            self.cache.fix_steps(self._lengths)
        else:
            self._lengths = tokens.new_tensor(rows.counts)
            self.cache.fix_steps(self._lengths, rows.order)

    def _start_recording(self) -> None:
        recorded = self.record(self._run_once)
        if recorded is not None:
            self._replay, self._logits = recorded

    def _unfix(self) -> None:
        # Each row's real tokens were brought to its front, so new ones would begin in unlike
        # slots.
        if self._padding is not None:
            raise UsageError(
                "Rows of unlike length cannot be read on in one batch after steps; read them one by"
                " one."
            )
        self.cache.end_steps(self.filled)
        self._lengths = None
        self._replay = None

    def _run_once(self) -> Tensor:
        assert self._lengths is not None
        with self._attention():
            return self._run(
                self.model, self.cache, self._tokens, self._lengths, self._offset, self.options
            )

    @contextmanager
    def _attention(self) -> Iterator[None]:
        """Full layers attend as in `attend_steps`, under the model's lock."""
        if not self._own:
            yield
            return
        with exclusive(self.model), switch_attention(self.model.config, STEPS):
            yield


def empty_cache(model: PreTrainedModel) -> Cache:
    """Returns the cache that a model makes by itself; a hybrid model's keeps what is retained."""
    make: Callable[[], Cache] | None = getattr(model, "new_cache", None)
    if make is not None:
        return make()
    return DynamicCache(config=model.config)


def require_read(model: PreTrainedModel, cache: Cache, tokens: int) -> None:
    """Raises ModelError unless `tokens` lie in the cache.

    All layers are asked in the families that are known here, the first one in others.
    """
    known = family_of(model.config.model_type) is not None
    require_filled(cache, tokens, model.config.num_hidden_layers if known else 1)


def _step(
    model: PreTrainedModel,
    cache: ReservedCache,
    tokens: Tensor,
    lengths: Tensor,
    offset: int,
    options: dict[str, str],
) -> Tensor:
    """Takes the step of fixed shapes: nothing in it depends on a number that the host must know."""
    lengths.add_(1)
    output = model(
        input_ids=tokens,
        position_ids=lengths[:, None] - 1 + offset,
        use_cache=True,
        logits_to_keep=1,
        lengths=lengths,
        **{CACHE: cache},
        **options,
    )
    logits: Tensor = output.logits[:, -1]
    return logits
