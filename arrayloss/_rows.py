"""Running a kernel over rows: whole arrays, or block by block.

Canonical arrays are (rows, k), or (outer, k, inner) where the class axis is not the last: k is the number of classes,
or 1 for one number a sample. Kernels see (rows, k) alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from arrayloss._modes import Array, Namespace

Work = Callable[..., tuple[Array | None, ...]]
Arrays = tuple[Any, ...]  # the logits first; what a kernel can do without may be None


def _rows(xp: Namespace, a: Array | None) -> Array | None:
    if a is None or a.ndim != 3:
        return a
    return xp.reshape(xp.permute_dims(a, (0, 2, 1)), (-1, a.shape[1]))


def _canonical(xp: Namespace, r: Array | None, outer: int, inner: int, ndim: int) -> Array | None:
    if r is None or ndim == 2:
        return r
    return xp.permute_dims(xp.reshape(r, (outer, inner, r.shape[1])), (0, 2, 1))


def whole(xp: Namespace, work: Work, arrays: Arrays) -> tuple[Array | None, ...]:
    """`work` on all rows at once; the first array is the logits."""
    x = arrays[0]
    results = work(*(_rows(xp, a) for a in arrays))
    inner = 1 if x.ndim == 2 else x.shape[2]
    return tuple(_canonical(xp, r, x.shape[0], inner, x.ndim) for r in results)


def _blocks(shape: tuple[int, ...], rows: int) -> Iterator[tuple[slice, ...]]:
    outer, inner = shape[0], 1 if len(shape) == 2 else shape[2]
    if len(shape) == 2:
        for i in range(0, outer, rows):
            yield (slice(i, i + rows),)
    elif inner <= rows:
        for i in range(0, outer, rows // inner):
            yield (slice(i, i + rows // inner),)
    else:
        for i in range(outer):
            for j in range(0, inner, rows):
                yield slice(i, i + 1), slice(None), slice(j, j + rows)


def in_blocks(xp: Namespace, work: Work, arrays: Arrays, block_bytes: int) -> tuple[Array | None, ...]:
    """`whole`, in blocks of about `block_bytes` of logits, so that the temporaries stay in a cache.

    A result of one row, of a block of many, is one for the block.
    """
    x = arrays[0]
    classes = x.shape[1]
    rows = max(1, block_bytes // (classes * max(4, x.dtype.itemsize)))
    if x.shape[0] * (1 if x.ndim == 2 else x.shape[2]) <= rows:
        return whole(xp, work, arrays)
    outputs: list[Array | None] | None = None
    # What is not laid out as the rows are is the same for every row.
    shared = tuple(a is None or a.shape[0] != x.shape[0] or a.shape[2:] != x.shape[2:] for a in arrays)
    blocks = list(_blocks(x.shape, rows))
    for i, block in enumerate(blocks):
        results = whole(xp, work, tuple(a if s else a[block] for a, s in zip(arrays, shared, strict=True)))
        if outputs is None:
            outputs = [None if r is None else _output(xp, r, x, rows, len(blocks)) for r in results]
        for output, result in zip(outputs, results, strict=True):
            if output is not None:
                output[block if output.shape[0] == x.shape[0] else slice(i, i + 1)] = result
    assert outputs is not None  # more rows than a block has, so one block at least
    return tuple(outputs)


def _output(xp: Namespace, first: Array, x: Array, rows: int, blocks: int) -> Array:
    """Room for the results of all blocks, of which this is the first's."""
    shape = (x.shape[0], first.shape[1], *x.shape[2:])
    if x.ndim == 2 and first.shape[0] < rows:
        shape = (blocks, *first.shape[1:])
    return xp.empty(shape, dtype=first.dtype, device=x.device)
