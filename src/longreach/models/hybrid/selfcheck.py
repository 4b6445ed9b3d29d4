"""Whether hybrid models read their cache under the installed libraries: tried on a tiny twin.

transformers hands the cache from module to module as a keyword argument. When a release renames or
moves it, nothing fails: the model forgets what it has read, and writes garbage. So whenever a
hybrid model is made or loaded, a tiny one out of the same classes reads a few tokens in each way
there is, in milliseconds. Nothing of the model itself is touched: not its weights, wherever they
lie or are cut to, not its mode, not the random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from longreach.errors import ModelError, UsageError
from longreach.models.cached import CACHE, cache_in, require_filled, versions_to_use
from longreach.models.parallel import Ulysses, refuse_context_parallel
from longreach.models.steps import Steps

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from longreach.models.hybrid.writing import HybridCausalLM

LAYERS = 2
_SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
# Small enough that the tokens leave the window.
_PATTERN = {"block_size": 2, "sink_blocks": 1, "local_blocks": 2, "stride": 3}
_FULL_LAYERS = [1]
# A prompt, a chunk and a single token.
_TOKENS = 12
_ATTENTION = "sdpa"
# Of the weights: every token matters to every later one.
_SPREAD = 0.3
# Of the largest logit; in float32 the true difference is near 1e-6.
_TOLERANCE = 1e-3


def check_cached(make: Callable[[], PreTrainedModel]) -> str | None:
    """Compares what a model reads through its caches with what it reads without.

    Args:
        make: Gives a tiny hybrid model on the CPU.

    Returns:
        Why it was not tried; None where it was, and both are the same.

    Raises:
        ModelError: They differ, or reading through a cache fails.
    """
    reason = _why_not()
    if reason is not None:
        return reason
    try:
        with _by_itself():
            model = make()
            off = max(_differences(model))
    # This says already what is wrong.
    except ModelError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ModelError(
            f"A hybrid model cannot read its cache here ({reason}). {versions_to_use()}"
        ) from error
    if not off <= _TOLERANCE:  # NaN too
        raise ModelError(
            "A hybrid model reads otherwise through its cache than without it: logits differ by"
            f" {off:.2g} of the largest, so its answers would be wrong. {versions_to_use()}"
        )
    return None


def check_class(model_class: type[HybridCausalLM]) -> str | None:
    """Checks a class of hybrid models with a twin that is made as models are when they are loaded.

    Args:
        model_class: A causal language model of `longreach.models.hybrid.families`.

    Returns:
        As `check_cached`.
    """
    return check_cached(lambda: make_twin(model_class))


def make_twin(model_class: type[HybridCausalLM], *, stock: bool = False) -> PreTrainedModel:
    """Returns a tiny model of a hybrid class, without a draw from the global random numbers.

    Args:
        model_class: A causal language model of `longreach.models.hybrid.families`.
        stock: Make one of the stock class that it is derived from.
    """
    made_of: Any = _stock_class(model_class) if stock else model_class
    # On the meta device nothing is initialized, and so nothing is drawn.
    with torch.device("meta"):
        model: Any = made_of(make_twin_config(model_class, stock=stock))
    model = model.to(torch.float32).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, _SPREAD, generator=generator)
        else:
            parameter.fill_(1)
    # Its frequencies are no parameters: `to_empty` has left them undefined.
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    return model.eval()


def make_twin_config(model_class: type[HybridCausalLM], *, stock: bool = False) -> PretrainedConfig:
    """Returns the config of a twin; arguments as in `make_twin`."""
    made_of: Any = _stock_class(model_class) if stock else model_class
    own: dict[str, Any] = {}
    if not stock:
        own = {"sparse_attention": dict(_PATTERN), "full_layers": list(_FULL_LAYERS)}
    config: PretrainedConfig = made_of.config_class(**_SIZES, **own)
    config._attn_implementation = _ATTENTION
    return config


def _stock_class(model_class: type[HybridCausalLM]) -> type[PreTrainedModel]:
    """Returns transformers' class that a hybrid one is derived from, after its mix-in."""
    stock: type[PreTrainedModel] = model_class.__bases__[1]
    return stock


def _why_not() -> str | None:
    """Returns why nothing can be tried now; None where it can."""
    if torch.compiler.is_compiling() or is_in_torch_dispatch_mode():
        return "tensors are traced or fake here, so nothing can be compared"
    try:
        refuse_context_parallel()
        if Ulysses.of(_ATTENTION, training=False) is not None:
            return "sequences are cut over ranks, and there a model has no cache"
    except UsageError as error:
        return str(error)
    return None


@contextmanager
def _by_itself() -> Iterator[None]:
    """Keeps from the twin whatever the caller has set for its own work."""
    with ExitStack() as settings:
        settings.enter_context(torch.no_grad())
        if torch.is_autocast_enabled("cpu"):
            settings.enter_context(torch.autocast("cpu", enabled=False))
        if torch.get_default_device().type != "cpu":
            settings.enter_context(torch.device("cpu"))
        yield


def _differences(model: PreTrainedModel) -> Iterator[float]:
    """Yields how far each way of reading through a cache is off, in parts of the largest logit."""
    prompt = _TOKENS - 4
    chunk = 3
    # No token comes twice, so that one that is read in a wrong place shows in the logits.
    ids = (torch.arange(_TOKENS) * 7 % model.config.vocab_size)[None]
    whole = model(input_ids=ids, use_cache=False).logits
    largest = whole.abs().max()
    hybrid = cast("HybridCausalLM", model)
    growing = hybrid.new_cache()
    static = hybrid.new_cache(max_length=_TOKENS)
    for cache, parts in ((growing, (prompt, chunk, 1)), (static, (prompt + chunk, 1))):
        read = []
        for part in ids.split(parts, dim=1):
            output = model(input_ids=part, use_cache=True, **{CACHE: cache})
            read.append(output.logits)
        require_filled(cache_in(output), _TOKENS, LAYERS)
        yield float((torch.cat(read, 1) - whole).abs().max() / largest)
    steps = Steps(model, _TOKENS, record=_never)
    steps.read(ids[:, :-1])
    yield float((steps.step(ids[:, -1]) - whole[:, -1]).abs().max() / largest)


def _never(run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Stands for a CUDA graph, which only a second step would record.

    The first step has the same fixed shapes.
    """
    raise AssertionError("one step was made")
