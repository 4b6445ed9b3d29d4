"""What KVZip can be asked for. Imports no torch."""

from longreach.compressors.method import Method, Option

BFLOAT16 = "bfloat16"
FLOAT32 = "float32"
INT8 = "int8"

KVZIP = Method(
    name="kvzip",
    home="longreach.compressors.kvzip.compressor:KVZip",
    options=(
        Option("ratio", int, "Tokens per kept entry.", default=8, least=1, most=30),
        Option(
            "segment_tokens",
            int,
            "Tokens read together; without it, what fits half the model's window, at most 4,096.",
            least=1,
        ),
        Option("passage_tokens", int, "Tokens per passage.", default=240, least=1),
        Option(
            "store",
            str,
            "How entries are stored; int8 has a scale for each head and channel.",
            default=BFLOAT16,
            choices=(BFLOAT16, INT8, FLOAT32),
        ),
    ),
)
"""KVzip (arXiv 2505.23416): keys and values chosen without training."""
