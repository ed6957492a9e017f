"""Running a kernel over rows: whole arrays, or block by block.

Canonical arrays are (rows, k), or (outer, k, inner) where the class axis is not the last: k is the number of classes,
or 1 for one number a sample. Kernels see (rows, k) under a tracer; blocks are as the arrays lie in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any

from arrayloss._modes import Array, Namespace

Work = Callable[..., tuple[Array | None, ...]]
Arrays = tuple[Any, ...]  # the logits first; what a kernel can do without may be None
Block = tuple[slice, ...]

# The fewest numbers in a row of memory that a block of (outer, k, inner) is made of: 128 bytes take as long as 1000.
_RUN = 64


def _rows(xp: Namespace, a: Array | None) -> Array | None:
    if a is None or a.ndim != 3:
        return a
    return xp.reshape(xp.permute_dims(a, (0, 2, 1)), (-1, a.shape[1]))


def _canonical(xp: Namespace, r: Array | None, outer: int, inner: int) -> Array | None:
    if r is None:
        return r
    return xp.permute_dims(xp.reshape(r, (outer, inner, r.shape[1])), (0, 2, 1))


def whole(xp: Namespace, work: Work, arrays: Arrays) -> tuple[Array | None, ...]:
    """`work` on all rows at once; the first array is the logits."""
    x = arrays[0]
    if x.ndim == 2:
        return work(*arrays)
    results = work(*(_rows(xp, a) for a in arrays))
    return tuple(_canonical(xp, r, x.shape[0], x.shape[2]) for r in results)


def _blocks(shape: tuple[int, ...], rows: int) -> Iterator[Block]:
    outer, inner = shape[0], 1 if len(shape) == 2 else shape[2]
    if len(shape) == 2:
        # All of a size, and none a remnant of one row, whose result would pass for one row's.
        rows = -(-outer // -(-outer // rows))
        for i in range(0, outer, rows):
            yield (slice(i, i + rows),)
    elif inner <= rows:
        for i in range(0, outer, rows // inner):
            yield (slice(i, i + rows // inner),)
    else:
        for i in range(outer):
            for j in range(0, inner, rows):
                yield slice(i, i + 1), slice(None), slice(j, j + rows)


def one_by_one(task: Callable[[Block], None], blocks: list[Block]) -> None:
    """`task` of every block."""
    for block in blocks:
        task(block)


def in_blocks(
    xp: Namespace,
    work: Work,
    arrays: Arrays,
    block_bytes: int,
    each: Callable[[Callable[[Block], None], list[Block]], None] = one_by_one,
) -> tuple[Array | None, ...]:
    """`work` in blocks of about `block_bytes` of logits, so that the temporaries stay in a cache.

    `each` goes through the blocks, in any order, or several at once. A result of one row, of a block of many, is one
    for the block.
    """
    x = arrays[0]
    shape = x.shape
    rows = max(1, block_bytes // (shape[1] * max(4, x.dtype.itemsize)))
    if len(shape) == 3:
        rows = max(rows, min(shape[2], _RUN))
    if shape[0] * (1 if len(shape) == 2 else shape[2]) <= rows:
        return work(*arrays)
    outputs: list[Array | None] = []
    # What is not laid out as the rows are is the same for every row.
    shared = tuple(a is None or a.shape[0] != x.shape[0] or a.shape[2:] != x.shape[2:] for a in arrays)
    blocks = list(_blocks(x.shape, rows))
    first = Lock()

    def output(result: Array, block: Block) -> Array:
        """Room for the results of all blocks, of which this is the first to come."""
        one = result.shape[0] == 1 < len(range(x.shape[0])[block[0]])
        shape = (len(blocks), result.shape[1]) if one else (x.shape[0], result.shape[1], *x.shape[2:])
        return xp.empty(shape, dtype=result.dtype, device=x.device)

    def task(block: Block) -> None:
        results = work(*(a if s else a[block] for a, s in zip(arrays, shared, strict=True)))
        with first:
            if not outputs:
                outputs.extend(None if r is None else output(r, block) for r in results)
        for whole_result, result in zip(outputs, results, strict=True):
            if whole_result is not None:
                whole_result[block if whole_result.shape[0] == x.shape[0] else blocks.index(block)] = result

    each(task, blocks)
    return tuple(outputs)
