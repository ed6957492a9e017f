"""NumPy: blocks that stay in the L2 cache, in place."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import numpy as xp

from arrayloss._libraries.generic import Library, summing
from arrayloss._modes import Array, Eager, Traced
from arrayloss._rows import Arrays, Work, in_blocks

# 2.5 times faster than whole arrays at 2048 x 32000 (measured with 1 MiB of L2 a core).
_BLOCK_BYTES = 1024 * 1024


class NumPy(Library):
    def owns(self, x: Any) -> bool:
        return isinstance(x, (np.ndarray, np.generic))

    def index_dtype(self, x: Array) -> Any:
        return np.int64

    def sum(self, x: Array) -> Array:
        return np.sum(x, dtype=np.float64)

    def looks(self, *arrays: Array | None) -> bool:
        return True

    def mode(self, dtype: Any, *arrays: Array | None) -> Traced:
        return Eager(self.xp, dtype, looks=True, rough=True)

    def summing(self, mode: Traced, arrays: Arrays) -> Traced:
        return summing(mode, arrays)

    def run(self, work: Work, arrays: Arrays) -> tuple[Array | None, ...]:
        return in_blocks(self.xp, work, arrays, _BLOCK_BYTES)


library = NumPy(xp)
