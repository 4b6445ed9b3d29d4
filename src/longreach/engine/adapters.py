"""The adapters of the rows of one forward: each row gets its own, or none.

What PEFT offers is slow for single tokens: switching an adapter on and off walks over all modules
and their parameters, and its `adapter_names` picks rows by index in every layer. Here the model's
adapters stay off, and for one forward hooks add to each layer's output what the adapters of the
rows make of its input. docs/engine.md has the measurements. What hooks cannot do (DoRA, quantized
layers, merged adapters) is left to PEFT, one adapter a forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor

from longreach.models.decoder import adapter_layers, only_adapter
from longreach.models.sharing import exclusive

if TYPE_CHECKING:
    from peft.tuners.lora.layer import Embedding, Linear
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import PreTrainedModel

    Plain = Linear | Embedding
    Hook = Callable[[Plain, tuple[Tensor, ...], Tensor], Tensor]


class Span(NamedTuple):
    """Rows `start` to `stop` of a batch, which have the adapter of this name."""

    start: int
    stop: int
    name: str


def can_mix(model: PreTrainedModel, names: Sequence[str | None]) -> bool:
    """Whether the rows of one forward may have these adapters, each its own."""
    wanted = {name for name in names if name is not None}
    return all(_is_plain(layer, wanted) for layer in adapter_layers(model))


@contextmanager
def adapted(model: PreTrainedModel, names: Sequence[str | None]) -> Iterator[None]:
    """The model with these adapters on for one forward, under its lock.

    Args:
        model: A causal language model.
        names: The adapter of each row, None for none; one name alone is that of all rows. Rows of
            one adapter should lie side by side.
    """
    with exclusive(model):
        layers = adapter_layers(model)
        different = len(set(names)) > 1
        # PEFT does what hooks cannot, as long as all rows want the same adapter.
        if not different and not (layers and can_mix(model, names)):
            with only_adapter(model, names[0]):
                yield
            return
        assert can_mix(model, names), "rows of these adapters need a forward each"
        spans = _spans(names)
        hooks: list[Any] = []
        with only_adapter(model, None):
            try:
                for layer in cast("list[Plain]", layers):  # as `can_mix` has seen
                    hook = _hook(layer, spans, whole=not different)
                    if hook is not None:
                        hooks.append(layer.register_forward_hook(hook))
                yield
            finally:
                for handle in hooks:
                    handle.remove()


def _spans(names: Sequence[str | None]) -> list[Span]:
    spans: list[Span] = []
    for row, name in enumerate(names):
        if name is None:
            continue
        if spans and spans[-1].name == name and spans[-1].stop == row:
            spans[-1] = spans[-1]._replace(stop=row + 1)
        else:
            spans.append(Span(row, row + 1, name))
    return spans


def _is_plain(layer: BaseTunerLayer, names: set[str]) -> bool:
    """Whether an adapter layer is an ordinary LoRA of a linear or an embedding layer."""
    from peft.tuners.lora.layer import Embedding, Linear

    # Not isinstance: subclasses, such as those of quantized layers, compute otherwise.
    if type(layer) not in (Linear, Embedding) or layer.merged:
        return False
    return names.isdisjoint(getattr(layer, "lora_variant", {}))


def _hook(layer: Plain, spans: Sequence[Span], *, whole: bool) -> Hook | None:
    """Returns the hook that adds the adapters' share to a layer's output; None for no share."""
    from peft.tuners.lora.layer import Embedding

    embeds = isinstance(layer, Embedding)
    known = layer.lora_embedding_A if embeds else layer.lora_A
    spans = [span for span in spans if span.name in known]
    if not spans:
        return None
    share = _embedding_share if embeds else _linear_share

    def hook(module: Plain, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if whole:
            return (output + share(module, inputs[0], spans[0].name)).to(output.dtype)
        # Under no_grad, and fresh from the layer: nobody else holds it.
        for start, stop, name in spans:
            output[start:stop] += share(module, inputs[0][start:stop], name)
        return output

    return hook


def _linear_share(layer: Plain, x: Tensor, name: str) -> Tensor:
    inner: Any = layer.lora_A[name]
    x = layer.lora_dropout[name](x.to(inner.weight.dtype))
    share: Tensor = layer.lora_B[name](inner(x)) * layer.scaling[name]
    return share


def _embedding_share(layer: Plain, ids: Tensor, name: str) -> Tensor:
    inner = torch.nn.functional.embedding(ids, layer.lora_embedding_A[name].T)
    share: Tensor = inner @ layer.lora_embedding_B[name].T * layer.scaling[name]
    # Some embedding layers, such as Gemma's, scale what they look up.
    scale = getattr(layer.get_base_layer(), "embed_scale", None)
    return share if scale is None else share * scale.to(share.dtype)
