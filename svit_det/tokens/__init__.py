"""The data that travels between blocks, and what is recorded of it: grids, states, usage."""

from svit_det.tokens.grid import TokenGrid
from svit_det.tokens.pass_record import PassRecord
from svit_det.tokens.record import BlockRecord, RowCounts
from svit_det.tokens.selection import BlockParts, ClassAttention, Selection
from svit_det.tokens.state import TokenState, everyone

__all__ = [
    "BlockParts",
    "BlockRecord",
    "ClassAttention",
    "PassRecord",
    "RowCounts",
    "Selection",
    "TokenGrid",
    "TokenState",
    "everyone",
]
