"""What travels between blocks: token states, selections, packing, traces."""

from svit_det.tokens.packing import Segments, gather_tokens, scatter_tokens
from svit_det.tokens.state import ClassAttention, Selection, TokenState
from svit_det.tokens.trace import TokenTrace

__all__ = [
    "ClassAttention",
    "Segments",
    "Selection",
    "TokenState",
    "TokenTrace",
    "gather_tokens",
    "scatter_tokens",
]
