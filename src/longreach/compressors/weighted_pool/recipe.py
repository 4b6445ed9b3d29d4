"""How a weighted pool is trained, with the adapter that reads it."""

from dataclasses import dataclass

from longreach.compressors.recipe import AnswerRecipe
from longreach.compressors.weighted_pool.options import WEIGHTED_POOL
from longreach.errors import UsageError


@dataclass(frozen=True)
class WeightedPoolRecipe(AnswerRecipe):
    """How a weighted pool is trained: always from questions."""

    method = WEIGHTED_POOL.name

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.questions:
            raise UsageError("A weighted pool is learned from questions: give a number of them.")

    @property
    def objective(self) -> str:
        """See `Recipe.objective`."""
        return "longreach.compressors.weighted_pool.objective:PoolObjective"
