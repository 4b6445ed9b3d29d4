"""The methods that need no training, as they announce themselves. Imports no torch."""

from longreach.compressors.method import Method, Option

MEAN_POOL = Method(
    name="mean-pool",
    home="longreach.compressors.mean_pool:MeanPool",
    options=(
        Option("ratio", int, "Tokens per vector.", default=30, least=1),
        Option("segment_tokens", int, "Tokens per passage.", default=240, least=1),
        Option("layer", int, "Layer whose states are pooled; -1: the last, 0: none.", default=-1),
    ),
)
