"""Dask: each chunk of rows by the library of its own arrays, when it is computed."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
from array_api_compat.dask import array as xp

from arrayloss._libraries.generic import Library
from arrayloss._modes import Array, Traced
from arrayloss._rows import Arrays


def _chunk_library(x: Array) -> Library:
    from arrayloss._libraries import library_of

    library = library_of(x)
    assert library is not None  # a chunk is an array
    return library


def _value(*chunks: Array, kernel: Any, present: tuple[bool, ...]) -> Array:
    library = _chunk_library(chunks[0])
    given = iter(chunks)
    with library.quiet():
        return library.apply(kernel, tuple(next(given) if p else None for p in present))


def _gradient(cotangent: Array, *chunks: Array, kernel: Any, present: tuple[bool, ...]) -> Array:
    library = _chunk_library(chunks[0])
    given = iter(chunks)
    with library.quiet():
        return library.gradient(kernel, tuple(next(given) if p else None for p in present), cotangent)[1]


def _take(labels: Array, values: Array) -> Array:
    return values.reshape(-1)[labels]


class _Lazy(Traced):
    def arange(self, n: int, like: Array) -> Array:
        return da.arange(n, dtype=like.dtype)


class Dask(Library):
    def mode(self, dtype: Any, *arrays: Array | None) -> Traced:
        return _Lazy(self.xp, dtype)

    def owns(self, x: Any) -> bool:
        return isinstance(x, da.Array)

    def looks(self, *arrays: Array | None) -> bool:
        return False

    def device(self, x: Array) -> Any:
        return None  # that of the chunks, which are not there yet

    def gather(self, values: Array, labels: Array) -> Array:
        values = values.rechunk(-1).reshape((1,) * (labels.ndim - 1) + (-1,))
        return da.map_blocks(  # type: ignore[no-untyped-call]
            _take, labels, values, chunks=labels.chunks, dtype=values.dtype, meta=values._meta
        )

    def apply(self, kernel: Any, arrays: Arrays, *, summed: bool = False) -> Array:
        aligned, present = _aligned(arrays)
        one = not kernel.keeps_classes
        return _mapped(_value, aligned, kernel.dtype, one, kernel=kernel, present=present)

    def gradient(self, kernel: Any, arrays: Arrays, cotangent: Array, *, summed: bool = False) -> tuple[Array, Array]:
        (_, *others), _ = _aligned((arrays[0], cotangent, *arrays[1:]))
        aligned, present = _aligned(arrays)
        return (
            _mapped(_value, aligned, kernel.dtype, True, kernel=kernel, present=present),
            _mapped(_gradient, (others[0], *aligned), aligned[0].dtype, False, kernel=kernel, present=present),
        )


def _aligned(arrays: Arrays) -> tuple[tuple[Array, ...], tuple[bool, ...]]:
    """The arrays that are there, chunked along the rows as the first is, each row whole."""
    x = arrays[0].rechunk({1: -1})
    aligned = (
        a.rechunk({d: c if d != 1 and a.shape[d] == x.shape[d] else -1 for d, c in enumerate(x.chunks)})
        for a in arrays[1:]
        if a is not None
    )
    return (x, *aligned), tuple(a is not None for a in arrays)


def _mapped(f: Any, arrays: tuple[Array, ...], dtype: Any, one: bool, **static: Any) -> Array:
    """`f` on every chunk; it returns one number a row, or a row."""
    x = arrays[0] if f is _value else arrays[1]
    chunks = tuple((1,) if one and d == 1 else c for d, c in enumerate(x.chunks))
    meta = np.empty((0,) * x.ndim, dtype=dtype)
    return da.map_blocks(  # type: ignore[no-untyped-call]
        f, *arrays, chunks=chunks, dtype=dtype, meta=meta, **static
    )


library = Dask(xp)
