"""What the systems are called that an evaluation compares. Imports no torch."""

FULL = "full"
HYBRID = "hybrid"
SINK_WINDOW = "sink-window"
MODELS = (FULL, HYBRID, SINK_WINDOW)
"""Systems that read whole texts: one model's weights in three ways of attending."""
KVPRESS = "kvpress"
"""A peer, which reads whole texts too; a press and a ratio may follow its name."""

NONE = "none"
TRUNCATED = "truncated"
BM25 = "bm25"
MEAN_POOL = "mean-pool"
COMPRESSED = "compressed"
MIXED = "mixed"
WAYS = (NONE, TRUNCATED, BM25, MEAN_POOL, COMPRESSED, MIXED)
"""Systems that read documents in part, or as memory."""
OF_MEMORY = (MEAN_POOL, COMPRESSED, MIXED)
"""Those of them that read memory, which costs something to make."""
ADAPTED = "+adapter"
ADAPTED_WAYS = (NONE + ADAPTED, TRUNCATED + ADAPTED, BM25 + ADAPTED)
"""Systems that read text with an adapter that was trained for memory."""


def is_peer(name: str) -> bool:
    """Whether a system is another project's."""
    return name.split(":")[0] == KVPRESS


def reads_whole_texts(name: str) -> bool:
    """Whether a system reads whole texts."""
    return name in MODELS or is_peer(name)
