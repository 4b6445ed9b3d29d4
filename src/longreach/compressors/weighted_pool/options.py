"""What a weighted pool can be asked for. Imports no torch."""

from longreach.compressors.method import Method, Option

WEIGHTED_POOL = Method(
    name="weighted-pool",
    home="longreach.compressors.weighted_pool.compressor:WeightedPool",
    options=(
        Option("ratio", int, "Tokens per vector.", least=1),
        Option("segment_tokens", int, "Tokens per passage.", least=1),
    ),
    untrained=False,
)
