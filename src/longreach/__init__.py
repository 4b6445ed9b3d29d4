"""Long contexts for open language models at a fraction of the memory.

Names are loaded when first used: `import longreach` imports neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Answer": "reading.answer",
    "AttentionPattern": "pattern",
    "AutoCompressor": "compressors.autocompressor.compressor",
    "Corpus": "corpus.store",
    "Document": "corpus.documents",
    "KVZip": "compressors.kvzip.compressor",
    "LayerPlan": "pattern",
    "Limits": "corpus.documents",
    "LongreachError": "errors",
    "MeanPool": "compressors.mean_pool",
    "Policy": "reading.policy",
    "Reader": "reading.reader",
    "Sampling": "engine.sampling",
    "Session": "session",
    "RankSettings": "layers.rank",
    "Steps": "models.steps",
    "WeightedPool": "compressors.weighted_pool.compressor",
    "convert": "models.hybrid.convert",
    "errors": "",
    "load": "models.loading.load",
    "open": "session",
    "rank_layers": "layers.rank",
    "sparse_attention": "kernels.api",
}

if TYPE_CHECKING:
    from longreach import errors as errors
    from longreach.compressors.autocompressor.compressor import AutoCompressor as AutoCompressor
    from longreach.compressors.kvzip.compressor import KVZip as KVZip
    from longreach.compressors.mean_pool import MeanPool as MeanPool
    from longreach.compressors.weighted_pool.compressor import WeightedPool as WeightedPool
    from longreach.corpus.documents import Document as Document
    from longreach.corpus.documents import Limits as Limits
    from longreach.corpus.store import Corpus as Corpus
    from longreach.engine.sampling import Sampling as Sampling
    from longreach.errors import LongreachError as LongreachError
    from longreach.kernels.api import sparse_attention as sparse_attention
    from longreach.layers.rank import RankSettings as RankSettings
    from longreach.layers.rank import rank_layers as rank_layers
    from longreach.models.hybrid.convert import convert as convert
    from longreach.models.loading.load import load as load
    from longreach.models.steps import Steps as Steps
    from longreach.pattern import AttentionPattern as AttentionPattern
    from longreach.pattern import LayerPlan as LayerPlan
    from longreach.reading.answer import Answer as Answer
    from longreach.reading.policy import Policy as Policy
    from longreach.reading.reader import Reader as Reader
    from longreach.session import Session as Session
    from longreach.session import open as open

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'longreach' has no attribute '{name}'")
    home = _HOMES[name]
    return (
        getattr(import_module(f"longreach.{home}"), name)
        if home
        else import_module(f"longreach.{name}")
    )


def __dir__() -> list[str]:
    return __all__
