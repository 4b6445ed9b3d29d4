"""Names for weights and vocabularies: two models with the same fingerprint read each other's
vectors."""

import hashlib
import json
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from longreach.models.sharing import encode, exclusive

# Texts whose ids differ when pre-tokenisation does: digits, spaces, case, accents, scripts, emoji,
# code, newlines.
_PROBE = (
    "Hello, world's 1234567 tests!  naïve Straße\r\n\tdef f(x):  return x**2\n日本語 Привет עברית"
    " 👩‍🚀 <|im_end|></s>"
)
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
_KINDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "bfloat16": lambda tensor: tensor.to(torch.bfloat16),
    "exact": lambda tensor: tensor,
}
_digests: weakref.WeakKeyDictionary[Any, dict[str, tuple[tuple, str]]] = weakref.WeakKeyDictionary()


def base_fingerprint(model: Any, tokenizer: Any) -> str:
    """Names the model that summary vectors are meant for.

    Weights count to bfloat16, so that a corpus made on a GPU in bfloat16 is read on a CPU in
    float32. PEFT adapters do not count: they are laid over the same model.
    """
    weights = _digest(model, "bfloat16")
    parts = f"{weights} {tokenizer_digest(tokenizer)} {_computation(model)}"
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def weights_digest(model: Any) -> str:
    """SHA-256 of the exact bytes of every weight, adapters left out."""
    return _digest(model, "exact")


def merging(model: Any) -> dict[str, str]:
    """What `name_merged` needs of a model before weights are merged into it."""
    return {kind: _digest(model, kind) for kind in _KINDS}


def name_merged(
    model: Any, before: dict[str, str], added: Mapping[str, torch.Tensor], settings: str
) -> None:
    """Names weights that an adapter was merged into by the two, as long as nothing else changes
    them.

    The sums themselves are rounded differently on a GPU, on a CPU and in bfloat16; vectors made on
    one are read on all.

    Args:
        model: the model after merging.
        before: what `merging` said of it.
        added: the adapter's tensors.
        settings: how they were added, such as the adapter's scale.
    """
    digest = hashlib.sha256(settings.encode())
    for name, tensor in sorted(added.items()):
        data = tensor.detach().cpu().contiguous().view(torch.uint8)
        digest.update(
            f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + data.numpy().tobytes()
        )
    state = _state(model)
    for kind, name in before.items():
        merged = hashlib.sha256(f"{name} {digest.hexdigest()}".encode()).hexdigest()
        _digests.setdefault(model, {})[kind] = state, merged


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of the vocabulary and of how a probe text splits; unlike a serialised tokenizer,
    stable over versions."""
    digest = hashlib.sha256()
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0])):
        digest.update(f"{index} {token}\n".encode("utf-8", "surrogatepass"))
    digest.update(repr(encode(tokenizer, _PROBE, add_special_tokens=False)["input_ids"]).encode())
    return digest.hexdigest()


def _computation(model: Any) -> str:
    """What a config says about the computation. A list of its own: new keys of later releases must
    not count."""
    config = model.config.get_text_config().to_dict()
    return json.dumps(
        {key: config[key] for key in _COMPUTATION if config.get(key) is not None}, sort_keys=True
    )


def _base_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in model.named_parameters():
        if "lora_" not in name and "modules_to_save" not in name:
            yield (
                name.replace("base_layer.", "").removeprefix("base_model.model."),
                parameter.detach(),
            )


def _sample(tensor: torch.Tensor) -> float:
    return (
        float(tensor.flatten()[:: max(1, tensor.numel() // 64)].double().sum())
        if tensor.numel()
        else 0.0
    )


def _state(model: Any) -> tuple:
    """Tells whether weights have changed, without reading them all."""
    # Hashing takes ~0.3 s per 100M weights. A tensor's version counter rises with every in-place
    # change but those through `.data`, which is how PEFT merges: hence the sample.
    weights = sorted(_base_weights(model))
    return tuple(
        (name, tensor.data_ptr(), tensor._version, _sample(tensor)) for name, tensor in weights
    )


def _digest(model: Any, kind: str) -> str:
    # Another thread may lay an adapter over it, which moves its weights to other names.
    with exclusive(model):
        return _digest_now(model, kind)


def _digest_now(model: Any, kind: str) -> str:
    state = _state(model)
    cached = _digests.setdefault(model, {}).get(kind)
    if cached and cached[0] == state:
        return cached[1]
    digest = hashlib.sha256()
    for name, tensor in sorted(_base_weights(model)):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        data = _KINDS[kind](tensor).contiguous().cpu().flatten()
        if data.numel():
            digest.update(data.view(torch.uint8).numpy().data)
    _digests[model][kind] = state, digest.hexdigest()
    return digest.hexdigest()
