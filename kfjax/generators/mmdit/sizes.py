"""The published sizes (paper §6.2): heads 17 / 23 / 32, depth 23 / 27 / 27, width 64 per head.

The paper gives no split between joint and single blocks; 6 joint blocks reproduce its parameter counts.
"""

from __future__ import annotations

from kfjax.generators.mmdit.config import MMDiTConfig


def _size(heads: int, depth: int) -> MMDiTConfig:
    return MMDiTConfig(width=64 * heads, heads=heads, joint_depth=6, single_depth=depth - 6)


SIZES = {"1.5b": _size(17, 23), "3b": _size(23, 27), "6b": _size(32, 27)}
