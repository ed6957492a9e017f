"""CuPy: in place, on the device of the arrays, and without looking at a number, which would wait for the device."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import cupy
from array_api_compat import cupy as xp

from arrayloss._backends.generic import Call
from arrayloss._backends.in_place import InPlace, InPlaceBackend
from arrayloss._kernels.ops import Array


class _Ops(InPlace):
    def like(self, value: Array | float, x: Array) -> Array:
        return value


class CuPy(InPlaceBackend):
    # Blocks only limit the memory of temporary arrays.
    block_bytes = 256 * 1024 * 1024

    def owns(self, x: Any) -> bool:
        return isinstance(x, cupy.ndarray)

    def context(self, x: Array) -> AbstractContextManager[Any]:
        # CuPy's creation functions ignore `device=` and use the current one (array-api-compat, "CuPy").
        device: AbstractContextManager[Any] = x.device
        return device

    def can_inspect(self, *arrays: Array | None) -> bool:
        return False

    def row_ops(self, call: Call, out: Array | None) -> InPlace:
        return _Ops(xp, call.dtype, out)


backend = CuPy(xp)
