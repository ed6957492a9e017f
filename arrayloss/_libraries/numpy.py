"""NumPy: blocks that stay in the L2 cache, in place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

import numpy as np
from array_api_compat import numpy as xp

from arrayloss._libraries.generic import Library
from arrayloss._modes import Array, Eager, Traced
from arrayloss._rows import Arrays, Work, in_blocks

# 2.5 times faster than whole arrays at 2048 x 32000 (measured with 1 MiB of L2 a core).
_BLOCK_BYTES = 1024 * 1024

# 1 us each, and the same for every call.
_isdtype = lru_cache(maxsize=128)(xp.isdtype)
_result_type = lru_cache(maxsize=128)(xp.result_type)


class _Labels:
    """Rows one after another, indexed as one: a fifth of the time of two indices."""

    def __init__(self, shape: tuple[int, ...], labels: Array) -> None:
        rows, classes = shape
        self._flat = np.arange(0, rows * classes, classes) + labels[:, 0]

    def take(self, x: Array) -> Array:
        return x.take(self._flat)[:, None]

    def drop(self, e: Array) -> Array:
        e.put(self._flat, 0)
        return e

    def spread(self, e: Array, others: Array, at_label: Array) -> Array:
        e *= others
        e.put(self._flat, at_label)
        return e


class _Eager(Eager):
    """The calls that cost a small array least: a ufunc's own reduction 1 us less than a function's, argmin 2 us."""

    def least(self, x: Array) -> float:
        return x.item(x.argmin())  # type: ignore[no-any-return]

    def most(self, x: Array) -> float:
        return x.item(x.argmax())  # type: ignore[no-any-return]

    def exp(self, x: Array, near: float) -> Array:
        if self._rough and not near and x.dtype == self.dtype:
            wide = x.astype(self.wide)
            return np.exp(wide, wide).astype(self.dtype)
        return np.exp(x)

    def arange(self, n: int, like: Array) -> Array:
        return np.arange(n, dtype=like.dtype)

    def labels(self, x: Array, labels: Array) -> Any:
        # What is computed from `x` is laid out as `x` is; elsewhere take and put make a copy of all.
        return _Labels(x.shape, labels) if x.flags.c_contiguous and x.shape[1] else super().labels(x, labels)

    def _in_range(self, total: Array, least: Array) -> bool:
        # A look takes as long as an operation here, so one for each.
        largest = self._largest
        return self.least(total) >= 0.25 and self.most(total) <= largest and largest * self.least(least) >= 1

    def sides(self, x: Array) -> tuple[Array, Array]:
        # No array of zeros, and not array-api-compat's sign: 2 us each.
        return np.maximum(x, 0), np.maximum(-x, 0)

    def raised(self, x: Array, e: Array) -> tuple[Array, Array]:
        sign = np.sign(x)
        return np.maximum(e, sign), np.maximum(e, -sign)

    def sums(self, e: Array) -> Array:
        return np.add.reduce(e, axis=1, keepdims=True)


@lru_cache(maxsize=256, typed=True)
def _kept(f: Callable[..., Any], *signature: Any) -> Any:
    return f(*signature)


@lru_cache(maxsize=16)
def _mode(dtype: Any) -> Traced:
    return _Eager(xp, dtype, looks=True, rough=True)


class NumPy(Library):
    def owns(self, x: Any) -> bool:
        return isinstance(x, (np.ndarray, np.generic))

    def quiet(self) -> AbstractContextManager[Any]:
        return np.errstate(all="ignore")

    def device(self, x: Array) -> Any:
        return "cpu"

    def compute_dtype(self, *dtypes: Any) -> Any:
        return _result_type(np.float32, *dtypes)

    def index_dtype(self, x: Array) -> Any:
        return np.int64

    def isdtype(self, dtype: Any, kind: str | tuple[str, ...]) -> bool:
        return _isdtype(dtype, kind)

    def kept(self, f: Callable[..., Any], *signature: Any) -> Any:
        try:
            return _kept(f, *signature)
        except TypeError:
            pass  # Unhashable, or refused, which is said better without the detour.
        return f(*signature)

    def astype(self, x: Array, dtype: Any) -> Array:
        if x.dtype == dtype:
            return x
        # A number's own astype takes 1 us.
        return np.dtype(dtype).type(x) if isinstance(x, np.generic) else x.astype(dtype)

    def span(self, x: Array) -> tuple[float, float]:
        return x.item(x.argmin()), x.item(x.argmax())

    def sum(self, x: Array) -> Array:
        return np.add.reduce(x, axis=None, dtype=np.float64)

    def looks(self, *arrays: Array | None) -> bool:
        return True

    def mode(self, dtype: Any, *arrays: Array | None) -> Traced:
        return _mode(dtype)

    def run(self, work: Work, arrays: Arrays) -> tuple[Array | None, ...]:
        return in_blocks(self.xp, work, arrays, _BLOCK_BYTES)


library = NumPy(xp)
