"""Names for weights and vocabularies.

Two models with the same fingerprint read each other's memory.
"""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longreach.models.sharing import encode, exclusive

# Texts whose ids differ when pre-tokenization does: digits, spaces, case, accents, scripts, emoji,
# code, newlines.
_PROBE = (
    "Hello, world's 1234567 tests!  naïve Straße\r\n\tdef f(x):  return x**2\n日本語 Привет עברית"
    " 👩‍🚀 <|im_end|></s>"
)
# Written out rather than taken from the config: keys of later releases must not count.
_COMPUTATION = (
    "model_type",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "rms_norm_eps",
    "rope_parameters",
    "sliding_window",
    "layer_types",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "sparse_attention",
    "full_layers",
)
_KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "bfloat16": lambda tensor: tensor.to(torch.bfloat16),
    "exact": lambda tensor: tensor,
}


class _WeightState(NamedTuple):
    """What tells whether a weight has changed, without reading all of it."""

    name: str
    address: int
    version: int
    sample: float


class _Kept(NamedTuple):
    """A digest, and the state of the weights that it belongs to."""

    state: tuple[_WeightState, ...]
    digest: str


_digests: weakref.WeakKeyDictionary[PreTrainedModel, dict[str, _Kept]] = weakref.WeakKeyDictionary()


def base_fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns a name for the model that a memory is meant for.

    Weights count to bfloat16, so that a corpus made on a GPU in bfloat16 is read on a CPU in
    float32. PEFT adapters do not count: they are laid over the same model.
    """
    weights = _digest(model, "bfloat16")
    parts = f"{weights} {tokenizer_digest(tokenizer)} {_computation(model)}"
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def weights_digest(model: PreTrainedModel) -> str:
    """Returns the SHA-256 of the exact bytes of every weight, adapters omitted."""
    return _digest(model, "exact")


def rounded_digest(model: PreTrainedModel) -> str:
    """Returns the SHA-256 of every weight in bfloat16, adapters omitted.

    It is the same whether a model was loaded in float32 or in bfloat16, and before and after it
    becomes hybrid.
    """
    return _digest(model, "bfloat16")


def digest_before_merging(model: PreTrainedModel) -> dict[str, str]:
    """Returns what `name_merged` needs of a model before weights are merged into it."""
    return {kind: _digest(model, kind) for kind in _KINDS}


def name_merged(
    model: PreTrainedModel, before: dict[str, str], added: Mapping[str, Tensor], settings: str
) -> None:
    """Names weights that an adapter was merged into by the two, until something changes them.

    The sums themselves are rounded differently on a GPU, on a CPU and in bfloat16; a memory made on
    one is read on all.

    Args:
        model: The model after merging.
        before: What `digest_before_merging` returned.
        added: The adapter's tensors.
        settings: How they were added, such as the adapter's scale.
    """
    digest = hashlib.sha256(settings.encode())
    for name, tensor in sorted(added.items()):
        data = tensor.detach().cpu().contiguous().view(torch.uint8)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(data.numpy().tobytes())
    state = _state(model)
    for kind, name in before.items():
        merged = hashlib.sha256(f"{name} {digest.hexdigest()}".encode()).hexdigest()
        _digests.setdefault(model, {})[kind] = _Kept(state, merged)


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns the SHA-256 of the vocabulary and of how a probe text is divided into tokens.

    Unlike a serialized tokenizer it stays the same over versions of the libraries.
    """
    digest = hashlib.sha256()
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0])):
        digest.update(f"{index} {token}\n".encode("utf-8", "surrogatepass"))
    digest.update(repr(encode(tokenizer, _PROBE, add_special_tokens=False)["input_ids"]).encode())
    return digest.hexdigest()


def _computation(model: PreTrainedModel) -> str:
    """Returns what a config says about the computation, as JSON."""
    config = model.config.get_text_config().to_dict()
    said = {key: config[key] for key in _COMPUTATION if config.get(key) is not None}
    return json.dumps(said, sort_keys=True)


def _base_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yields the weights below all adapters, by the names that they have without them."""
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            continue
        plain = name.replace("base_layer.", "").removeprefix("base_model.model.")
        yield plain, parameter.detach()


def _sample(tensor: Tensor) -> float:
    """Returns the sum of some 64 of a tensor's numbers."""
    if not tensor.numel():
        return 0.0
    step = max(1, tensor.numel() // 64)
    return float(tensor.flatten()[::step].double().sum())


def _state(model: PreTrainedModel) -> tuple[_WeightState, ...]:
    """Returns what tells whether weights have changed, without reading them all."""
    # Hashing takes ~0.3 s per 100M weights. A tensor's version counter rises with every in-place
    # change but those through `.data`, which is how PEFT merges: hence the sample.
    states = []
    for name, tensor in sorted(_base_weights(model)):
        states.append(_WeightState(name, tensor.data_ptr(), tensor._version, _sample(tensor)))
    return tuple(states)


def _digest(model: PreTrainedModel, kind: str) -> str:
    # Another thread may lay an adapter over it, which moves its weights to other names.
    with exclusive(model):
        return _digest_now(model, kind)


def _digest_now(model: PreTrainedModel, kind: str) -> str:
    state = _state(model)
    cached = _digests.setdefault(model, {}).get(kind)
    if cached is not None and cached.state == state:
        return cached.digest
    digest = hashlib.sha256()
    for name, tensor in sorted(_base_weights(model)):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        data = _KINDS[kind](tensor).contiguous().cpu().flatten()
        if data.numel():
            digest.update(data.view(torch.uint8).numpy().data)
    _digests[model][kind] = _Kept(state, digest.hexdigest())
    return digest.hexdigest()
