"""How a scaled mean is trained. Imports no torch."""

from dataclasses import dataclass

from longreach.compressors.recipe import Recipe
from longreach.errors import UsageError


@dataclass(frozen=True)
class ScaledMeanRecipe(Recipe):
    """How a scaled mean is trained: on `width` tokens a vector."""

    width: int = 8

    method = "scaled-mean"

    def __post_init__(self):
        super().__post_init__()
        if self.width > self.segment_tokens:
            raise UsageError(f"width is {self.width}, more than the segment's {self.segment_tokens} tokens: lower it.")

    @property
    def objective(self):
        return "tests.extension.compressors.scaled_mean.objective:ScaledMeanObjective"
