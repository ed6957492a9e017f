"""NumPy: blocks that stay in the L2 cache, in place, on as many threads as there are cores."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import copy_context
from functools import lru_cache
from typing import Any

import numpy as np
from array_api_compat import numpy as xp

from arrayloss._libraries.generic import Library, remembered, summing
from arrayloss._modes import Array, Eager, Traced
from arrayloss._rows import Arrays, Block, Work, in_blocks, one_by_one

# 2.5 times faster than whole arrays at 2048 x 32000 (measured with 1 MiB of L2 a core).
_BLOCK_BYTES = 1024 * 1024
# Where exponentials are written to their place, fewer are better: threads wait for each other between operations.
_PLACED_BYTES = 2 * _BLOCK_BYTES
# Up to here, to start a thread and to pass the interpreter's lock on takes most of what a second core saves.
_THREADED_BYTES = 3 * _BLOCK_BYTES
# So that the blocks in use at once are no more than some MiB.
_MOST_THREADS = 8
# Numbers that are one block without a question, which takes 1 us.
_FEW = 1 << 10
# How many numbers are added one by one, in four times four sums: NumPy adds 128 in eight.
_TERMS = 128
_STEPS = 16
# The classes from which a row is computed with its number as it is. Of fewer, NumPy does well to write that number out
# into a buffer first, as it does up to 8192 (numpy issues 13307 and 17471): 2.3 times as long for 1000.
_LONG = 256


def _row_sums(x: Array) -> Array:
    """np.sum(x, axis=1) in a half to a quarter of its time: `einsum` has vector code, and little to do for a row.

    It adds all of a row in the same few sums, whose errors grow with their number: long rows are cut.
    """
    rows, n = x.shape
    pieces = -(-n // _TERMS)
    if pieces <= 1:
        return np.einsum("ij->i", x)
    size = n // pieces
    sums = _row_sums(np.einsum("ijk->ij", x[:, : pieces * size].reshape(rows, pieces, size)))
    if n > pieces * size:
        sums += np.einsum("ij->i", x[:, pieces * size :])
    return sums


def _column_sums(x: Array) -> Array:
    """np.sum(x, axis=1) of (outer, n, inner), where NumPy adds all of the n one after the other: no more than 16."""
    outer, n, inner = x.shape
    if n <= _STEPS:
        return np.add.reduce(x, axis=1)
    size = n // _STEPS
    sums = _column_sums(np.add.reduce(x[:, : _STEPS * size].reshape(outer, _STEPS, size, inner), axis=1))
    if n > _STEPS * size:
        sums += np.add.reduce(x[:, _STEPS * size :], axis=1)
    return sums


def _by_rows(ufunc: np.ufunc, x: Array, column: Array, out: Array | None) -> Array:
    """`ufunc` of rows and one number for each, which from `_LONG` classes on is not written out first."""
    if x.ndim != 2 or x.shape[1] < _LONG or x.dtype != column.dtype:
        return ufunc(x, column, out=out)
    with np.errstate():  # within which the size is kept, on this thread
        np.setbufsize(16)
        return ufunc(x, column, out=out)


# 1 us each, and the same for every call.
_isdtype = lru_cache(maxsize=128)(np.isdtype)
_result_type = lru_cache(maxsize=128)(np.result_type)


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
        return self.put(_by_rows(np.multiply, e, others, e), at_label)

    def put(self, e: Array, at_label: Array) -> Array:
        e.put(self._flat, at_label)
        return e


class _Eager(Eager):
    """The calls that cost a small array least: an argmin 2 us less than a minimum."""

    def least(self, x: Array) -> float:
        return x.item(x.argmin())  # type: ignore[no-any-return]

    def most(self, x: Array) -> float:
        return x.item(x.argmax())  # type: ignore[no-any-return]

    def exp(self, x: Array, near: float) -> Array:
        if self._rough and not near and x.dtype == self.dtype:
            wide = x.astype(self.wide)
            return np.exp(wide, wide).astype(self.dtype)
        return self._exp(x)

    def arange(self, n: int, like: Array) -> Array:
        return np.arange(n, dtype=like.dtype)

    def labels(self, x: Array, labels: Array) -> Any:
        # What is computed from `x` is laid out as `x` is; elsewhere take and put make a copy of all.
        plain = x.ndim == 2 and x.flags.c_contiguous
        return _Labels(x.shape, labels) if plain else super().labels(x, labels)

    def sides(self, x: Array) -> tuple[Array, Array]:
        # No array of zeros, and not array-api-compat's sign: 2 us each.
        return np.maximum(x, 0), np.maximum(-x, 0)

    def raised(self, x: Array, e: Array) -> tuple[Array, Array]:
        sign = np.sign(x)
        return np.maximum(e, sign), np.maximum(e, -sign)

    def subtract(self, x: Array, column: Array, room: Array | None) -> Array:
        return _by_rows(np.subtract, x, column, room)

    def multiply(self, e: Array, column: Array) -> Array:
        return _by_rows(np.multiply, e, column, e)

    def sum(self, x: Array) -> Array:
        return (_row_sums(x) if x.ndim == 2 else _column_sums(x))[:, None]


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
        return remembered(f, *signature)

    def astype(self, x: Array, dtype: Any) -> Array:
        if x.dtype == dtype:
            return x
        # A number's own astype takes 1 us.
        return np.dtype(dtype).type(x) if isinstance(x, np.generic) else x.astype(dtype)

    def span(self, x: Array) -> tuple[float, float]:
        return x.item(x.argmin()), x.item(x.argmax())

    def answers(self, y: Array) -> tuple[bool, bool]:
        sharp = (y == 0) | (y == 1)
        if sharp.item(sharp.argmin()):
            return True, True
        lowest, highest = self.span(y)
        return lowest >= 0 and highest <= 1, False

    def sum(self, x: Array) -> Array:
        return np.add.reduce(x, axis=None, dtype=np.float64)

    def looks(self, *arrays: Array | None) -> bool:
        return True

    def mode(self, dtype: Any, *arrays: Array | None) -> Traced:
        return _mode(dtype)

    def order(self, x: Array) -> tuple[int, ...] | None:
        if x.flags.c_contiguous:
            return None
        order = tuple(sorted(range(x.ndim), key=lambda d: x.strides[d], reverse=True))
        return order if x.transpose(order).flags.c_contiguous else None

    def room(self, x: Array, dtype: Any) -> Array | None:
        return np.empty(x.shape, dtype) if x.nbytes > _PLACED_BYTES else None

    def summing(self, mode: Traced, arrays: Arrays) -> Traced:
        return summing(mode, arrays)

    def run(self, mode: Traced, work: Work, arrays: Arrays, *, placed: bool = False) -> tuple[Array | None, ...]:
        if arrays[0].size <= _FEW:
            return work(*arrays)
        each = _in_threads if arrays[0].nbytes > _THREADED_BYTES else one_by_one
        return in_blocks(self.xp, work, arrays, _PLACED_BYTES if placed else _BLOCK_BYTES, each)


def _threads() -> int:
    """As many as NumPy's own BLAS has: the cores that this process may use, or OMP_NUM_THREADS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return min(cores, max(1, int(asked)) if asked.isdecimal() else cores, _MOST_THREADS)


def _in_threads(task: Callable[[Block], None], blocks: list[Block]) -> None:
    """`task` of every block, on threads that last as long as the call: nothing is left for a fork or an exit to break.

    NumPy lets other threads run while it computes. From a thread of the caller's own, one of a pool as a rule (Dask,
    joblib), there is no other: these are as many as the cores already.
    """
    left = deque(blocks)

    def some() -> None:
        try:
            while True:
                try:
                    block = left.popleft()
                except IndexError:
                    break
                task(block)
        finally:
            # Nothing is left, or an exception is under way.
            left.clear()

    others = min(_threads(), len(blocks)) - 1 if threading.current_thread() is threading.main_thread() else 0
    if others <= 0:
        return some()
    running: list[Future[None]] = []
    with ThreadPoolExecutor(others) as pool:
        try:
            for _ in range(others):
                # `np.errstate` is a variable of the context.
                running.append(pool.submit(copy_context().run, some))
        except RuntimeError:
            pass  # no thread can be started, at the interpreter's end for one
        some()
    for future in running:
        future.result()


library = NumPy(xp)
