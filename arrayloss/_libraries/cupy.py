"""CuPy: large blocks, for memory alone, in place, and without looking (which would wait for the device)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import cupy
from array_api_compat import cupy as xp

from arrayloss._libraries.generic import Library
from arrayloss._modes import Array, Eager, Traced
from arrayloss._rows import Arrays, Work, in_blocks

_BLOCK_BYTES = 256 * 1024 * 1024


class CuPy(Library):
    def owns(self, x: Any) -> bool:
        return isinstance(x, cupy.ndarray)

    def looks(self, *arrays: Array | None) -> bool:
        return False

    def mode(self, dtype: Any, *arrays: Array | None) -> Traced:
        return Eager(self.xp, dtype, looks=False)

    def run(self, mode: Traced, work: Work, arrays: Arrays, *, placed: bool = False) -> tuple[Array | None, ...]:
        # CuPy's creation functions ignore `device=` (array-api-compat, "CuPy": the current device is used).
        device: AbstractContextManager[Any] = arrays[0].device
        with device:
            return in_blocks(self.xp, work, arrays, _BLOCK_BYTES)


library = CuPy(xp)
