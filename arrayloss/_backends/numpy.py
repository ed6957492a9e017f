"""NumPy: blocks that stay in the L2 cache, on a few threads."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import lru_cache
from typing import Any

import numpy as np
from array_api_compat import numpy as xp

from arrayloss._backends.generic import Call, folded
from arrayloss._backends.in_place import InPlace, InPlaceBackend
from arrayloss._backends.rows import Block
from arrayloss._kernels.ops import Array

# Up to this size, starting a thread and passing the GIL on takes most of the time that a second core saves.
_THREADED_BYTES = 3 * 1024 * 1024
# So that the blocks in use at once are no more than some MiB.
_MOST_THREADS = 8


class _Ops(InPlace):
    def zero_d(self, value: float, device: Any) -> Array:
        return self.dtype.type(value)

    def sum(self, x: Array) -> Array:
        # NumPy adds a row in pairs, but along another axis one number after the other, except where `inner` is 1.
        return np.add.reduce(x if x.ndim == 2 else folded(np, x, 1, 1), axis=1, keepdims=True)

    def scale(self, x: Array, factor: Array) -> Array:
        x *= factor
        np.copyto(x, 0, where=factor == 0)
        return x

    def multiply_zero_wins(self, weight: Array, x: Array) -> Array:
        # With a mask of bits: `where` takes 10 times as long where the branch can't be predicted.
        integer = np.int32 if self.dtype.itemsize == 4 else np.int64
        some = np.negative((weight != 0).view(np.int8), dtype=integer)
        bits = np.asarray(weight * x).view(integer)
        return np.bitwise_and(bits, some, out=bits).view(x.dtype)


# Cached: 1 us each, and the same for every call.
_result_type = lru_cache(maxsize=128)(np.result_type)
_range = lru_cache(maxsize=32)(lambda dtype: (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)))


class NumPy(InPlaceBackend):
    # What fits the L2 cache of a core: 1.7 times as fast as whole arrays at 2048 x 32000.
    block_bytes = 2 * 1024 * 1024

    def owns(self, x: Any) -> bool:
        return isinstance(x, (np.ndarray, np.generic))

    def refusal(self, x: Array) -> Exception | None:
        if isinstance(x, np.ma.MaskedArray):
            return TypeError("a masked array: pass its data, and where=~mask for the samples that count")
        return TypeError("a np.matrix: pass np.asarray(...) of it") if isinstance(x, np.matrix) else None

    def can_inspect(self, *arrays: Array | None) -> bool:
        return True

    @lru_cache(maxsize=64)  # noqa: B019  # there is one backend
    def kind(self, dtype: Any) -> str | None:
        return super().kind(dtype)

    def compute_dtype(self, *dtypes: Any) -> Any:
        # In the byte order of the machine; that of the arrays may be the other one.
        return _result_type(np.float32, *dtypes)

    def index_dtype(self, x: Array) -> Any:
        return np.int64

    def integer_range(self, dtype: Any) -> tuple[int, int]:
        return _range(dtype)

    def astype(self, x: Array, dtype: Any) -> Array:
        if x.dtype == dtype:
            return x
        # The astype of a NumPy scalar takes 1 us.
        return np.dtype(dtype).type(x) if isinstance(x, np.generic) else x.astype(dtype)

    def span(self, x: Array) -> tuple[float, float]:
        return x.min().item(), x.max().item()

    def number(self, value: float, like: Array, dtype: Any) -> Array:
        return np.dtype(dtype).type(value)

    def sum(self, x: Array, axis: tuple[int, ...] | None = None) -> Array:
        return np.add.reduce(x, axis=axis, dtype=np.float64)

    def row_ops(self, call: Call, out: Array | None) -> InPlace:
        return _Ops(xp, call.dtype, out)

    def each(self, task: Callable[[int, Block], None], parts: list[Block], x: Array) -> None:
        _in_threads(task, parts) if x.nbytes > _THREADED_BYTES else super().each(task, parts, x)

    def empty(self, shape: tuple[int, ...], like: Array, dtype: Any) -> Array:
        return np.empty(shape, dtype)


def _threads() -> int:
    """The cores that this process may use, or OMP_NUM_THREADS, as in NumPy's BLAS; but at most `_MOST_THREADS`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return min(cores, max(1, int(asked)) if asked.isdecimal() else cores, _MOST_THREADS)


def _in_threads(task: Callable[[int, Block], None], parts: list[Block]) -> None:
    """`task` of every block, on threads that last as long as the call: nothing is left for a fork or an exit to break.

    NumPy releases the GIL while it computes. A caller that is not on the main thread is usually in a pool (Dask,
    joblib), which has a thread for each core already: then no thread is started.
    """
    left = deque(enumerate(parts))

    def some() -> None:
        try:
            while True:
                try:
                    number, block = left.popleft()
                except IndexError:
                    break
                task(number, block)
        finally:
            # Empty already, unless an exception was raised: then the other threads stop too.
            left.clear()

    others = min(_threads(), len(parts)) - 1 if threading.current_thread() is threading.main_thread() else 0
    if others <= 0:
        return some()
    running: list[Future[None]] = []
    with ThreadPoolExecutor(others) as pool:
        try:
            for _ in range(others):
                # `np.errstate` is kept in a context variable.
                running.append(pool.submit(copy_context().run, some))
        except RuntimeError:
            pass  # no thread can be started, for example at the interpreter's exit
        some()
    for future in running:
        future.result()


backend = NumPy(xp)
