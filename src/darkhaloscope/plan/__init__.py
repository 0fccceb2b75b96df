"""Who is injected with what, in which order: a pure function of the experiment and a brick.

Rows are ordered by brick name, then by ``slot = (j << 32) | k``: k is the target's OBJID in its brick, j
which of the target's rows it is. Every random number of a row comes from one table of uniforms per
brick and j, ``Philox(key=[seed, xxh64(brick)], counter=[0, 0, 0, j])``, row k, one column a parameter:
adding or removing targets, bricks or blocks changes no other row.

rows        the rows of one brick, from its table of uniforms
whole       all bricks in order, and their blocks
checks      what cannot be planned
targetlist  the targets in their order, in memory or read a piece at a time
"""

from darkhaloscope.plan.rows import COLUMNS, brick_rows, shear_components, uniforms
from darkhaloscope.plan.targetlist import (
    MemoryTargets,
    TargetList,
    WithBrickWidths,
    joint_digest,
    open_targets,
)
from darkhaloscope.plan.whole import Piece, Plan, block_rows

__all__ = [
    "COLUMNS",
    "MemoryTargets",
    "Piece",
    "Plan",
    "TargetList",
    "WithBrickWidths",
    "block_rows",
    "brick_rows",
    "joint_digest",
    "open_targets",
    "shear_components",
    "uniforms",
]
