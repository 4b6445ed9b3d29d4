"""What a weighted pool can be asked for. Imports no torch."""

from longreach.compressors.method import Method, Option
from longreach.compressors.recipe import ANSWER_OPTIONS

WEIGHTED_POOL = Method(
    name="weighted-pool",
    home="longreach.compressors.weighted_pool.compressor:WeightedPool",
    options=(
        Option("ratio", int, "Tokens per vector.", least=1),
        Option("segment_tokens", int, "Tokens per passage.", least=1),
    ),
    untrained=False,
    training="longreach.compressors.weighted_pool.recipe:WeightedPoolRecipe",
    training_options=ANSWER_OPTIONS,
)
