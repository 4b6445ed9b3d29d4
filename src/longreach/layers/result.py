"""What ranking the layers of a model gives: choices with their figures, costs, and the report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from longreach.jsontext import JsonObject
from longreach.layers.scores import Score


@dataclass(frozen=True)
class RankedChoice:
    """The best full layers found of their number.

    Attributes:
        full: The layers, ascending.
        score: How well they read the probes.
        kv_bytes: Of keys and values in bfloat16 of one row of `kv_tokens` tokens, with the pattern
            that `convert` uses unless told otherwise.
        kv_tokens: The model's window.
    """

    full: tuple[int, ...]
    score: Score
    kv_bytes: int
    kv_tokens: int

    def to_json(self) -> JsonObject:
        """Returns the choice as it is kept in files."""
        return {
            "full_layers": list(self.full),
            **self.score.to_json(),
            "kv_bytes": self.kv_bytes,
            "kv_tokens": self.kv_tokens,
        }


@dataclass(frozen=True)
class HeadCost:
    """How much the NLL rises where one KV head alone is sparse, in nats."""

    layer: int
    head: int
    cost: float


@dataclass(frozen=True)
class RankedLayers:
    """A ranking as it was made.

    Attributes:
        model: What the model was loaded from.
        order: The layers, from the one that matters most.
        costs: Of each layer: how much the NLL rises where it alone is sparse, in nats.
        choices: By the number of full layers, ascending.
        heads: From the one that matters most; None where they were not asked for.
        file: What `convert` reads.
        report: What stands in the file.
    """

    model: str
    order: list[int]
    costs: list[float]
    choices: list[RankedChoice]
    heads: list[HeadCost] | None
    file: Path
    report: JsonObject

    def to_json(self) -> JsonObject:
        """Returns the report, and where it lies."""
        return self.report | {"file": str(self.file)}


def describe_heads(heads: list[HeadCost] | None) -> list[JsonObject] | None:
    """Returns the heads as they are kept in files."""
    if heads is None:
        return None
    return [asdict(head) for head in heads]
