"""Which keys a query sees: the pattern of a sparse layer, and which layers are sparse.

Arithmetic only: importing it loads no torch.
"""

from longreach.pattern.attention import AttentionPattern
from longreach.pattern.layers import LayerPlan
from longreach.pattern.visibility import PermanentBlocks

__all__ = ["AttentionPattern", "LayerPlan", "PermanentBlocks"]
