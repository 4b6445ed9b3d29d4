"""The two models that `bench model` compares, around the same weights.

One has full attention in every layer, the other is the hybrid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import torch

from longreach.bench.cases import check_source
from longreach.errors import UsageError
from longreach.jsontext import JsonObject, read_field
from longreach.models.hybrid.convert import convert
from longreach.models.hybrid.sparse import pattern_of, plan_of
from longreach.models.untrained import random_llama
from longreach.pattern import AttentionPattern, LayerPlan
from longreach.planning.plan import HardwarePlan, Shape, hardware, plan
from longreach.planning.plan import shape as published

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class BenchSubject:
    """Full and hybrid, sharing their weights.

    Attributes:
        source: Name of the shape, or reference of the model.
        full: Every layer attends to everything, through scaled_dot_product_attention.
        hybrid: Sparse layers see what the pattern shows them.
        shape: Sizes of both; a slice has fewer layers than the published shape.
        layers: Which layers of the hybrid are full.
        pattern: Of its sparse layers.
        of_layers: Layers of the whole model; more than `shape.layers` where this is a slice.
        of_full_layers: Full layers of the whole hybrid.
    """

    source: str
    full: PreTrainedModel
    hybrid: PreTrainedModel
    shape: Shape
    layers: LayerPlan
    pattern: AttentionPattern
    of_layers: int
    of_full_layers: int

    @property
    def dtype(self) -> torch.dtype:
        """Returns the dtype of the weights."""
        return self.full.dtype

    @property
    def device(self) -> torch.device:
        """Returns where the weights live."""
        return self.full.device

    @property
    def weights_bytes(self) -> int:
        """Returns the bytes of the weights, each counted once."""
        return sum(parameter.nbytes for parameter in self.full.parameters())

    def ideal(self, length: int, rows: int) -> HardwarePlan:
        """Returns what arithmetic says of a length; only the ratios of its times are used."""
        return plan(
            self.shape,
            length,
            hardware("h100"),
            self.pattern,
            self.layers,
            rows=rows,
            itemsize=self.dtype.itemsize,
        )

    def kv_bytes(self, name: str, length: int, rows: int, *, blocks: bool = False) -> int:
        """Returns the bytes of keys and values after `length` tokens a row, by arithmetic.

        Args:
            name: "full", or any other for the hybrid.
            length: Tokens.
            rows: Rows of the batch.
            blocks: Sparse layers in whole blocks, as the cache allocates them: the ring of local
                blocks, and the permanent blocks of the KV head that has most.
        """
        s = self.shape
        # With as many full layers as there are layers, none is sparse.
        layers = LayerPlan.make(s.layers, s.layers) if name == "full" else self.layers
        itemsize = self.dtype.itemsize
        by_layer = layers.kv_bytes(self.pattern, length, s.kv_heads, s.head_dim, itemsize)
        if blocks:
            for layer in layers.sparse:
                tokens = self._allocated_tokens(length, layer)
                # Keys and values, hence twice.
                by_layer[layer] = 2 * tokens * s.kv_heads * s.head_dim * itemsize
        return rows * sum(by_layer)

    def _allocated_tokens(self, length: int, layer: int) -> int:
        """Returns how many positions a sparse layer's cache has slots for, for each KV head."""
        p = self.pattern
        heads = self.shape.kv_heads
        # The cache counts from the block of the next token, even while that block is empty.
        last = length // p.block_size
        # The KV heads of a tensor have as many slots as the fullest of them needs.
        far = max(p.far_count(last, head, heads, layer) for head in range(heads))
        ring = min(p.blocks(length), p.local_blocks)
        return (far + ring) * p.block_size

    def describe(self) -> JsonObject:
        """Returns what a report says of the two."""
        part = None
        if self.shape.layers < self.of_layers:
            part = {
                "layers": self.shape.layers,
                "of": self.of_layers,
                "full_layers_of_all": self.of_full_layers,
            }
        return {
            "source": self.source,
            "shape": asdict(self.shape),
            "slice": part,
            "full_layers": list(self.layers.full),
            "sparse_layers": len(self.layers.sparse),
            "pattern": asdict(self.pattern),
            "weights_bytes": self.weights_bytes,
        }


def share_saved(figures: Mapping[str, JsonObject], name: str) -> float:
    """Returns the share of one of the full model's figures that the hybrid does without."""
    return 1 - read_field(figures["hybrid"], name, int) / read_field(figures["full"], name, int)


def make_subject(
    *,
    shape: str | None = None,
    model: str | None = None,
    layers: int | None = None,
    pattern: AttentionPattern | None = None,
    full_layers: str | int | Sequence[int] | None = None,
    length: int,
    dtype: torch.dtype | None = None,
    device: torch.device,
) -> BenchSubject:
    """Returns both models.

    Args:
        shape: A published shape, with random weights.
        model: Or a model to load (a hub id, a folder, a file): stock or hybrid.
        layers: Only so many of its layers, with the ratio of full to sparse kept; None for all.
        pattern: Of the sparse layers; None for a hybrid model's own, else variant A of the paper.
        full_layers: As `convert` takes it, of the whole model; None for a hybrid model's own, else
            the middle third.
        length: Tokens that have to fit the window.
        dtype: Of the weights; None for bfloat16 on a GPU and float32 on a CPU.
        device: Where they live.

    Raises:
        UsageError: Not exactly one of shape and model, or a number out of range.
    """
    check_source(shape, model)
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    source = str(shape or model)
    loaded = None
    if shape is not None:
        sizes = published(shape)
    else:
        from longreach.models.loading.load import load

        loaded, _ = load(source, device=str(device), dtype=dtype)
        sizes = Shape.of(loaded.config)
        # What the caller names comes before what the checkpoint says of itself.
        if getattr(loaded.config, "sparse_attention", None) is not None:
            pattern = pattern or pattern_of(loaded.config)
            if full_layers is None:
                full_layers = list(plan_of(loaded.config).full)
    pattern = pattern or AttentionPattern.sink_window()
    whole = LayerPlan.make(sizes.layers, "middle-third" if full_layers is None else full_layers)
    count = sizes.layers if layers is None else layers
    if not 1 <= count <= sizes.layers:
        raise UsageError(f"layers is {count}; give 1 to {sizes.layers}, the layers of {source}.")
    chosen = whole
    # A slice keeps the ratio of full to sparse layers, as far as whole layers can.
    if count < sizes.layers:
        chosen = LayerPlan.make(count, round(len(whole.full) * count / sizes.layers))
    window = max(length, pattern.window_tokens)
    cut = replace(sizes, layers=count)
    full: PreTrainedModel
    if loaded is None:
        full = random_llama(cut, window, dtype=dtype, device=device)
    else:
        # The model was loaded for this run alone, so it may be cut in place.
        loaded.model.layers = loaded.model.layers[:count]
        loaded.config.num_hidden_layers = count
        # Every layer full, whatever window the layers had.
        full = convert(loaded, pattern, count, window)
    hybrid = convert(full, pattern, list(chosen.full), window)
    return BenchSubject(source, full, hybrid, cut, chosen, pattern, sizes.layers, len(whole.full))
