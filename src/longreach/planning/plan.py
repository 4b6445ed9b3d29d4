"""What a model at a length needs and could reach on given cards, full and hybrid.

It is arithmetic, nothing is loaded; the attention part comes from `longreach.pattern`. Times are
limits, work over the card's peak (`hardware.json`; 800 TFLOP/s is what dense bf16 products reach on
an H100), not forecasts. Shapes and cards are data files beside this one.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longreach.errors import UsageError
from longreach.jsontext import JsonObject, read_field
from longreach.pattern import AttentionPattern, LayerPlan
from longreach.wording import counted

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_HERE = Path(__file__).parent
# A parameter: bf16 weight and gradient, float32 master copy and two Adam moments.
_TRAINING_BYTES = 16
# Times the forward pass, where all weights are trained.
_BACKWARD_LINEAR = 2.0
BACKWARD_ATTENTION = 2.5
# Of a card's memory: the rest is for the runtime, fragments and workspaces.
_MEMORY_SHARE = 0.9


@dataclass(frozen=True)
class Shape:
    """A Llama-family decoder: sizes of its matrices."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool = False

    @classmethod
    def of(cls, config: PretrainedConfig) -> Shape:
        """Returns the shape that a config of transformers describes."""
        head_dim = getattr(config, "head_dim", None)
        if head_dim is None:
            head_dim = config.hidden_size // config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=head_dim,
            intermediate=config.intermediate_size,
            vocab=config.vocab_size,
            tied=bool(config.tie_word_embeddings),
        )

    @property
    def layer_parameters(self) -> int:
        """Returns the weights of all layers' matrices: what every token is multiplied with."""
        # q and o are as wide as all query heads, k and v as wide as the KV heads.
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def layer_activations(self) -> int:
        """Returns how many numbers the backward pass of one layer needs for every token."""
        attention = 2 * self.head_dim * (self.heads + self.kv_heads)
        return 4 * self.hidden + attention + 3 * self.intermediate

    @property
    def parameters(self) -> int:
        """Returns the number of all weights, embeddings and norms included."""
        matrices = 1 if self.tied else 2
        embeddings = self.vocab * self.hidden * matrices
        # Two norms in each layer, and the final one.
        return self.layer_parameters + embeddings + self.hidden * (2 * self.layers + 1)


@dataclass(frozen=True)
class Cards:
    """One or more equal accelerators."""

    count: int
    memory_bytes: float
    flops: float
    bytes_per_second: float


@dataclass(frozen=True)
class Estimate:
    """Memory in bytes over all cards, work in FLOP, times in seconds at the cards' peak.

    `activation_bytes` is training's with gradient checkpointing: each layer's input and one layer
    recomputed. The cards are the fewest whose memory suffices in the way that the recipe beside
    them names; `lora` trains an adapter, whose own few weights are not counted.
    """

    weights_bytes: int
    kv_bytes: int
    activation_bytes: int
    prefill_flops: int
    training_flops: int
    prefill_seconds: float
    decode_seconds_per_token: float
    training_seconds: float
    serving_bytes: int
    training_bytes: int
    serving_cards: int
    serving_recipe: str
    training_cards: int
    training_recipe: str
    lora_cards: int
    lora_recipe: str


@dataclass(frozen=True)
class HardwarePlan:
    """Full and hybrid side by side."""

    full: Estimate
    hybrid: Estimate

    @property
    def kv_reduction(self) -> float:
        """Returns the share of the KV cache that the hybrid does not need."""
        return 1 - self.hybrid.kv_bytes / self.full.kv_bytes

    @property
    def prefill_speedup(self) -> float:
        """Returns the upper limit at equal kernel efficiency."""
        return self.full.prefill_seconds / self.hybrid.prefill_seconds

    @property
    def decode_speedup(self) -> float:
        """Returns the upper limit where memory traffic decides."""
        return self.full.decode_seconds_per_token / self.hybrid.decode_seconds_per_token

    @property
    def training_speedup(self) -> float:
        """Returns the upper limit of a training step."""
        return self.full.training_seconds / self.hybrid.training_seconds


def shape(name: str) -> Shape:
    """Returns the published shape of that name."""
    fields: dict[str, Any] = _look_up("shapes.json", name, "shape")
    return Shape(**fields)


def hardware(text: str) -> Cards:
    """Returns cards such as `h100` or `8xh100`."""
    match = re.fullmatch(r"(?:(\d+)x)?(\w+)", text.lower())
    count = int(match[1] or 1) if match else 0
    if not match or count < 1:
        raise UsageError(
            f"hardware is {text!r}; give a card or a number of them, such as 'h100' or '8xh100'."
        )
    fields: dict[str, Any] = _look_up("hardware.json", match[2], "card")
    return Cards(count, **fields)


def plan(
    model: Shape,
    length: int,
    cards: Cards,
    pattern: AttentionPattern | None = None,
    layers: LayerPlan | None = None,
    *,
    rows: int = 1,
    itemsize: int = 2,
) -> HardwarePlan:
    """Returns what a full and a hybrid model need and could reach.

    Args:
        model: Sizes.
        length: Tokens of each row.
        cards: What it runs on; work and traffic are shared evenly.
        pattern: Of the sparse layers; variant A of the paper where None.
        layers: Which layers are full; the middle third where None.
        rows: Rows of the batch.
        itemsize: Bytes of a weight and of a cached number.

    Raises:
        UsageError: A number is below 1, or the layer plan is for another number of layers.
    """
    for name, value in (("length", length), ("rows", rows), ("itemsize", itemsize)):
        if value < 1:
            raise UsageError(f"{name} is {value}; give at least 1.")
    layers = layers or LayerPlan.make(model.layers)
    if layers.num_layers != model.layers:
        raise UsageError(
            f"The layer plan is for {counted(layers.num_layers, 'layer')}; the model has"
            f" {model.layers}."
        )
    pattern = pattern or AttentionPattern.sink_window()
    # With as many full layers as there are layers, the pattern does not matter.
    everything = LayerPlan.make(model.layers, model.layers)
    return HardwarePlan(
        full=_estimate(model, length, cards, pattern, everything, rows, itemsize),
        hybrid=_estimate(model, length, cards, pattern, layers, rows, itemsize),
    )


def _estimate(
    model: Shape,
    length: int,
    cards: Cards,
    pattern: AttentionPattern,
    layers: LayerPlan,
    rows: int,
    itemsize: int,
) -> Estimate:
    # All in whole numbers: floats would lose bytes at these sizes.
    kv = rows * sum(layers.kv_bytes(pattern, length, model.kv_heads, model.head_dim, itemsize))
    attention = rows * sum(
        layers.attention_flops(pattern, length, model.heads, model.kv_heads, model.head_dim)
    )
    linear = rows * 2 * model.layer_parameters * length
    head = rows * 2 * model.vocab * model.hidden
    prefill = linear + attention + head  # logits of the last position only
    training = round(
        (linear + head * length) * (1 + _BACKWARD_LINEAR) + attention * (1 + BACKWARD_ATTENTION)
    )
    weights = model.parameters * itemsize
    activations = rows * length * itemsize * (model.hidden * model.layers + model.layer_activations)
    card_bytes = cards.memory_bytes * _MEMORY_SHARE
    state, each = model.parameters * _TRAINING_BYTES, activations // rows
    serving_cards = math.ceil((weights + kv) / card_bytes)
    training_cards, training_recipe = _training(state, each, rows, card_bytes, model.heads)
    lora_cards, lora_recipe = _training(weights, each, rows, card_bytes, model.heads)
    return Estimate(
        weights_bytes=weights,
        kv_bytes=kv,
        activation_bytes=activations,
        prefill_flops=prefill,
        training_flops=training,
        prefill_seconds=prefill / (cards.flops * cards.count),
        # A step reads every weight, and every key and value that is kept, once.
        decode_seconds_per_token=(weights + kv) / (cards.bytes_per_second * cards.count),
        training_seconds=training / (cards.flops * cards.count),
        serving_bytes=weights + kv,
        training_bytes=state + activations,
        serving_cards=serving_cards,
        serving_recipe=_serving(serving_cards, pattern.stride > 0 and bool(layers.sparse)),
        training_cards=training_cards,
        training_recipe=training_recipe,
        lora_cards=lora_cards,
        lora_recipe=lora_recipe,
    )


def _serving(cards: int, strided: bool) -> str:
    if cards == 1:
        return "one card"
    # A stride's heads are not alike.
    return "layers spread over cards" if strided else "tensor parallelism"


def _training(state: int, row: int, rows: int, card_bytes: float, heads: int) -> tuple[int, str]:
    """Returns the fewest cards for a training step, and how to use them.

    Args:
        state: Bytes of the weights, with what their training needs.
        row: Bytes of the activations of a row.
        rows: Rows of a step.
        card_bytes: What a card can give.
        heads: Query heads: sequences are cut over at most as many cards.
    """
    if state + rows * row <= card_bytes:
        return 1, "one card"
    # Sharded states shrink with the cards, a card's row of activations does not.
    ways = {}
    if row < card_bytes:
        ways["FSDP2, a row a card at a time"] = max(2, math.ceil(state / (card_bytes - row)))
    together = max(2, math.ceil((state + row) / card_bytes))
    if together <= heads:
        ways["Ulysses x ZeRO-3, each row over all cards"] = together
    else:  # a row over as many cards as there are heads, the weights over more
        apart = math.ceil(row / heads)
        if apart >= card_bytes:
            return 0, "does not fit: shorten the rows"
        ways["Ulysses x ZeRO-3, each row over as many cards as heads"] = max(
            heads, math.ceil(state / (card_bytes - apart))
        )
    # The fewest cards; among equals the first, which communicates less.
    best = min(ways, key=lambda way: ways[way])
    return ways[best], best


def _look_up(file: str, name: str, what: str) -> JsonObject:
    known = json.loads((_HERE / file).read_text(encoding="utf-8"))
    if name not in known:
        raise UsageError(f"There is no {what} called {name!r}; choose one of {', '.join(known)}.")
    return read_field(known, name, dict)
