"""Dask: each chunk of samples is computed by the library of its own arrays, when Dask computes it."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
from array_api_compat.dask import array as xp

from arrayloss._backends.generic import Arrays, Backend, Call, Step
from arrayloss._kernels.ops import Array


def _library(x: Array) -> Backend | None:
    # Imported here, as that module imports this one.
    from arrayloss._backends import backend_of

    return backend_of(x)


def _of_chunk(x: Array) -> Backend:
    backend = _library(x)
    assert backend is not None  # a chunk is an array
    return backend


def _computed(*chunks: Array, call: Call, present: tuple[bool, ...]) -> Array:
    """The value; with one chunk more, a cotangent, the gradient."""
    backend = _of_chunk(chunks[0])
    given = iter(chunks)
    arrays = tuple(next(given) if p else None for p in present)
    cotangent = next(given, None)
    with backend.context(chunks[0]):
        if cotangent is None:
            return backend.value(call, arrays)
        return backend.value_and_gradient(call, arrays, cotangent)[1]


def _take(labels: Array, values: Array) -> Array:
    return values.reshape(-1)[labels]


class Dask(Backend):
    def owns(self, x: Any) -> bool:
        return isinstance(x, da.Array)

    def refusal(self, x: Array) -> Exception | None:
        # After indexing with a mask, a size is nan.
        if any(n != n for n in x.shape):
            return ValueError("a Dask array of unknown chunk sizes: call its compute_chunk_sizes() first")
        chunk = _library(x._meta)
        said = f"a {type(x._meta).__name__}" if chunk is None else chunk.refusal(x._meta)
        return None if said is None else TypeError(f"a Dask array of which each chunk is {said}")

    def can_inspect(self, *arrays: Array | None) -> bool:
        return False

    def is_constant(self, x: Array) -> bool:
        return True  # one number, which is computed now

    def device(self, x: Array) -> Any:
        return None  # that of the chunks, which are not there yet

    def compute_dtype(self, *dtypes: Any) -> Any:
        # In the byte order of the machine, as on NumPy.
        return np.result_type(np.float32, *dtypes)

    def number(self, value: float, like: Array, dtype: Any) -> Array:
        return da.full((), value, dtype=dtype)  # type: ignore[no-untyped-call]

    def gather(self, values: Array, labels: Array) -> Array:
        if labels.ndim == 0:
            return self.gather(values, labels.reshape((1,)))[0]
        values = values.rechunk(-1).reshape((1,) * (labels.ndim - 1) + (-1,))
        return da.map_blocks(  # type: ignore[no-untyped-call]
            _take, labels, values, chunks=labels.chunks, dtype=values.dtype, meta=values._meta
        )

    def value(self, call: Call, arrays: Arrays, *, summed: bool = False) -> Array:
        return self._mapped(call, arrays, None, call.dtype, call.kernel.keeps_classes)

    def value_and_gradient(
        self, call: Call, arrays: Arrays, cotangent: Array, *, summed: bool = False, overwrite: bool = False
    ) -> tuple[Array, Array]:
        return self.value(call, arrays), self._mapped(call, arrays, cotangent, arrays[0].dtype, True)

    def scan(self, step: Step, sums: Arrays, rows: Arrays, size: int, number: int) -> tuple[Arrays, Arrays]:
        # One step for all rows: Dask computes their logits one chunk at a time.
        return step(sums, rows)

    def _mapped(self, call: Call, arrays: Arrays, cotangent: Array | None, dtype: Any, keeps_classes: bool) -> Array:
        x, *others = _aligned(call, (*arrays, cotangent))
        chunks = tuple((1,) if d == call.axis and not keeps_classes else c for d, c in enumerate(x.chunks))
        present = tuple(a is not None for a in arrays)
        meta = np.empty((0,) * x.ndim, dtype=dtype)
        return da.map_blocks(  # type: ignore[no-untyped-call]
            _computed, x, *others, chunks=chunks, dtype=dtype, meta=meta, call=call, present=present
        )


def _aligned(call: Call, arrays: Arrays) -> tuple[Array, ...]:
    """The arrays that are not None, chunked as the first is, with the class axis in one chunk."""
    x = arrays[0] if call.axis is None else arrays[0].rechunk({call.axis: -1})
    others = (
        a if a.ndim != x.ndim else a.rechunk({d: c if a.shape[d] == x.shape[d] else -1 for d, c in enumerate(x.chunks)})
        for a in arrays[1:]
        if a is not None
    )
    return (x, *others)


backend = Dask(xp)
