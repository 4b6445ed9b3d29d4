"""What every decoder family has in common, and PEFT adapters switched around a piece of work.

Whatever is switched here is switched for all threads that share the model: it is done under the
model's lock (see `models.sharing`), so keep such a piece of work to one forward, and never yield
inside it.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import PreTrainedModel

from longreach.errors import FingerprintMismatch, ModelError, reason_of
from longreach.jsontext import parse_object
from longreach.models.cached import CACHE
from longreach.models.sharing import exclusive
from longreach.wording import counted

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import PreTrainedTokenizerBase

LAID = "longreach-"
"""How the names of adapters begin that `add_adapter` laid over a model."""
# In an adapter's folder.
_BASE = "longreach.json"
_NEEDED = ("inputs_embeds", CACHE, "use_cache")

# The adapters that are chosen, and whether they are off.
_State = tuple[list[str], bool]


class _Known(NamedTuple):
    """The configs of a model's adapters, and the layers that carry them."""

    configs: list[tuple[str, PeftConfig]]
    layers: weakref.WeakSet[BaseTunerLayer]


_layers: weakref.WeakKeyDictionary[PreTrainedModel, _Known] = weakref.WeakKeyDictionary()


def decoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """Returns the transformer below the LM head: from `inputs_embeds` to the final norm.

    Raises:
        ModelError: The model has none.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    # A model that has no decoder below its head may give itself.
    if decoder is None or decoder is model:
        raise ModelError(
            f"{type(model).__name__} has no decoder that takes inputs_embeds; use a causal language"
            " model."
        )
    return decoder


def check_readable(model: PreTrainedModel) -> None:
    """Refuses a model that would fail only after the expensive step.

    Raises:
        ModelError: It takes no embeddings in place of tokens, or has no KV cache.
    """
    if not isinstance(model, PreTrainedModel):
        return
    named = inspect.signature(type(model).forward).parameters
    lacking = [name for name in _NEEDED if name not in named]
    # From transformers 5.24 on the state of a model without attention is called a cache too.
    if CACHE not in lacking and not hasattr(model.config.get_text_config(), "num_attention_heads"):
        lacking.append(CACHE)
    if lacking:
        raise ModelError(
            f"{type(model).__name__} does not take {' and '.join(lacking)}, which reading vectors"
            " needs: use a decoder with attention, such as a Llama."
        )


def check_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses a tokenizer with tokens that the model does not know.

    Raises:
        ModelError: It has some.
    """
    rows = embedding_weight(model).shape[0]
    highest = max(tokenizer.get_vocab().values(), default=0)
    if highest >= rows:
        raise ModelError(
            f"The tokenizer has ids to {highest:,} and the model {rows:,} embeddings: use the"
            " model's own tokenizer."
        )


def embedding_weight(model: PreTrainedModel) -> torch.Tensor:
    """Returns a model's input embeddings, [V, d]."""
    # To torch, what a module holds may always be a module too.
    embeddings: Any = model.get_input_embeddings()
    weight: torch.Tensor = embeddings.weight
    return weight


def window_of(model: PreTrainedModel) -> int | None:
    """Returns the positions that a model was made for; None where its config does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


@torch.no_grad()
def length_of_embeddings(model: PreTrainedModel) -> float:
    """Returns the mean length of a model's input embeddings."""
    return float(embedding_weight(model).float().norm(dim=-1).mean())


def hidden_states(
    model: PreTrainedModel,
    rows: Sequence[torch.Tensor],
    layer: int = -1,
    *,
    adapter: str | None = None,
) -> torch.Tensor:
    """Runs rows of input embeddings, each from position 0 on, without other adapters.

    Rows are padded on the right. Under causal attention nothing before the padding sees it, so no
    mask is needed: the fast kernels apply, and a row's result does not depend on the others.

    Args:
        model: A causal language model.
        rows: Input embeddings, [T_i, d] each.
        layer: -1 for the states after the final norm, otherwise an index into the layers' outputs
            (0: embeddings).
        adapter: The one that is on meanwhile, as `add_adapter` named it.

    Returns:
        [B, max T, d]; what lies beyond T_i in row i is meaningless.
    """
    from longreach.models.switching import forget_growth, groups_of

    groups = groups_of(model, list(map(len, rows)))
    # Rows that are rotated in unlike ways cannot be read together.
    if len(groups) > 1:
        states: dict[int, torch.Tensor] = {}
        for group in groups:
            own = [rows[index] for index in group]
            states |= zip(group, hidden_states(model, own, layer, adapter=adapter), strict=True)
        in_order = [states[index] for index in range(len(rows))]
        return torch.nn.utils.rnn.pad_sequence(in_order, batch_first=True)
    batch = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    with only_adapter(model, adapter):
        forget_growth(model)
        if layer == -1:
            return decoder_of(model)(inputs_embeds=batch, use_cache=False).last_hidden_state
        return decoder_of(model)(
            inputs_embeds=batch, use_cache=False, output_hidden_states=True
        ).hidden_states[layer]


def note_base(folder: Path, fingerprint: str, model_ref: str) -> None:
    """Writes beside an adapter which model it was trained for.

    PEFT tells models apart by their shapes only.
    """
    (folder / _BASE).write_text(
        json.dumps({"model_fingerprint": fingerprint, "model": model_ref}) + "\n"
    )


def add_adapter(model: PreTrainedModel, folder: Path, fingerprint: str | None = None) -> str:
    """Lays the LoRA adapter in `folder` over the model, switched off, and returns its name.

    The same adapter is laid over a model once, however often it is asked for. Tensors beside it
    that belong to no module of the model, such as summary embeddings, are omitted.

    Args:
        model: A causal language model.
        folder: Of the adapter.
        fingerprint: The model's; an adapter that names another one is refused.

    Raises:
        ModelError: The folder holds no LoRA adapter that fits the model.
        FingerprintMismatch: The adapter was trained for another model.
    """
    # Imported here, because who only runs a decoder does not need what loading takes.
    from longreach.models.loading.lora import lora_config, lora_weights, omit_foreign

    refused = ModelError(f"'{folder}' holds no PEFT adapter that fits {type(model).__name__}")
    try:
        config = parse_object((folder / "adapter_config.json").read_bytes(), wide=True, nan=float)
        config, weights = omit_foreign(model, config, lora_weights(folder))
        base = parse_object((folder / _BASE).read_bytes()) if (folder / _BASE).is_file() else {}
        made_for = base.get("model_fingerprint")
    except Exception as error:
        raise ModelError(
            f"{refused}: its files are missing or damaged ({type(error).__name__})."
        ) from error
    if fingerprint and made_for and made_for != fingerprint:
        raise FingerprintMismatch(
            f"The adapter in '{folder}' was trained for another model"
            f" ({base.get('model') or made_for}): give one that was trained for this model, or"
            " train one with `longreach study`."
        )
    if config.get("peft_type") != "LORA" or config.get("modules_to_save"):
        raise ModelError(
            f"{refused}: only LoRA without modules_to_save can be switched on and off around an"
            " answer."
        )
    # The name stands for the content, so that one adapter in two folders is laid only once.
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for key, tensor in sorted(weights.items()):
        digest.update(key.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    name = f"{LAID}{digest.hexdigest()[:16]}"
    with exclusive(model):
        if name not in getattr(model, "peft_config", {}):
            _lay(model, name, weights, lora_config(config, model, weights, folder), refused)
    return name


def _lay(
    model: PreTrainedModel,
    name: str,
    weights: Mapping[str, torch.Tensor],
    settings: LoraConfig,
    refused: ModelError,
) -> None:
    """Lays an adapter over the model by this name, switched off; the others stay as they were."""
    from longreach.models.loading.quiet import quiet

    settings.inference_mode = True
    before = _state(model)
    try:
        with quiet(), warnings.catch_warnings():
            # It warns that there is another adapter, which is meant.
            warnings.simplefilter("ignore", UserWarning)
            model.load_adapter(
                peft_config=settings,  # type: ignore[arg-type]  # said to be a dict, and is not
                adapter_state_dict=dict(weights),
                adapter_name=name,
            )
        laid = set[str]()
        for key, _ in model.named_parameters():
            if f".{name}." in f"{key}.":
                laid.add(key)
        # To PEFT, a weight without a place is no error: the adapter would do less than it was
        # trained to do.
        if len(laid) != len(weights):
            raise ValueError(
                f"{counted(len(weights), 'weight')} in the folder, places for {len(laid)} in the"
                " model"
            )
    except Exception as error:
        if name in getattr(model, "peft_config", {}):
            _take_off(model, name)
        reason = reason_of(error)
        raise ModelError(
            f"{refused} ({reason}): use one that was trained on this model."
        ) from error
    finally:
        _layers.pop(model, None)
        # PEFT switches on what it loads: layers that are new go off, and the others are set back.
        _restore(dict.fromkeys(_state(model), ([], True)) | before)


def _take_off(model: PreTrainedModel, name: str) -> None:
    """Deletes an adapter as the model's own `delete_adapter` does.

    That one refuses where transformers asks for a newer PEFT than there is.
    """
    from peft.functional import delete_adapter

    delete_adapter(model, adapter_name=name, prefix="lora_")
    del model.peft_config[name]
    if not model.peft_config:
        del model.peft_config
        # Else it would be saved as an adapter.
        model._hf_peft_config_loaded = False


def switch_off(model: PreTrainedModel) -> None:
    """Switches all adapters of a model off, until `only_adapter` has one on for a while."""
    with exclusive(model):
        _restore(dict.fromkeys(_state(model), ([], True)))


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Runs a model without dropout for a while; what it was set to comes back."""
    with exclusive(model):
        training = model.training
        try:
            model.eval()
            yield
        finally:
            model.train(training)


@contextmanager
def adapters_off(model: PreTrainedModel) -> Iterator[None]:
    """Runs the bare model for a while, whatever adapters lie over it."""
    with only_adapter(model, None):
        yield


@contextmanager
def only_adapter(model: PreTrainedModel, name: str | None) -> Iterator[None]:
    """Has just this adapter on for a while, or none; what was on before comes back."""
    with exclusive(model):
        before = _state(model)
        wanted = ([], True) if name is None else ([name], False)
        # Switching walks over the parameters of a layer: only where something changes.
        changed = {layer: state for layer, state in before.items() if _differ(state, wanted)}
        try:
            _restore(dict.fromkeys(changed, wanted))
            yield
        finally:
            _restore(changed)


def adapter_layers(model: PreTrainedModel) -> list[BaseTunerLayer]:
    """Returns the layers of a model that can carry adapters, of those laid over it so far."""
    configs = list((getattr(model, "peft_config", None) or {}).items())
    if not configs:
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer

    known = _layers.get(model)
    # Whatever adds or deletes an adapter changes the configs; they are compared as objects, since
    # an adapter may come back under the same name for other layers.
    if known is None or not _same_objects(known.configs, configs):
        found = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
        known = _Known(configs, weakref.WeakSet(found))
        _layers[model] = known
    return list(known.layers)


def _same_objects(one: list[tuple[str, PeftConfig]], other: list[tuple[str, PeftConfig]]) -> bool:
    if len(one) != len(other):
        return False
    pairs = zip(one, other, strict=True)
    return all(a[0] == b[0] and a[1] is b[1] for a, b in pairs)


def _differ(state: _State, wanted: _State) -> bool:
    """Returns whether a layer has to be switched."""
    chosen, off = state
    wanted_chosen, wanted_off = wanted
    if off != wanted_off:
        return True
    # Which adapters are chosen counts only while they are on.
    return not off and chosen != wanted_chosen


def _state(model: PreTrainedModel) -> dict[BaseTunerLayer, _State]:
    """Returns for each layer that can carry adapters which are chosen, and whether they are off."""
    states: dict[BaseTunerLayer, _State] = {}
    for layer in adapter_layers(model):
        states[layer] = (list(layer.active_adapters), layer.disable_adapters)
    return states


def _restore(states: Mapping[BaseTunerLayer, _State]) -> None:
    for layer, (active, off) in states.items():
        if active:
            layer.set_adapter(active)
        layer.enable_adapters(not off)
