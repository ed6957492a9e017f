"""Rows and blocks, for the libraries whose arrays lie in memory and can be written to.

Arrays with a class axis become (outer, classes, inner), or (rows, classes) where that axis is the last in memory;
elementwise ones become flat. Nothing is copied where the axes lie in another order in memory. A kernel goes through
the rows block by block, so that its temporary arrays stay in a cache.
"""

from __future__ import annotations

import math

from arrayloss._kernels.ops import Array, Namespace

Block = tuple[slice, ...]

# The fewest numbers along `inner` in a block of (outer, classes, inner): 128 adjacent bytes take as long as 1000.
_RUN = 64


class Rows:
    """How arrays of `shape`, with the classes along `axis` (None: no classes), become rows, and back.

    `order` has the axes as they lie in memory, the outermost first; None if that is their own order.
    """

    def __init__(self, xp: Namespace, shape: tuple[int, ...], axis: int | None, order: tuple[int, ...] | None) -> None:
        self._xp, self._shape, self._axis, self._order = xp, shape, axis, order
        self._at = axis if axis is None or order is None else order.index(axis)

    def of(self, x: Array) -> Array:
        """`x` as rows: it has `shape`, or length 1 along the class axis. One number stays one, to be broadcast."""
        if x.ndim != len(self._shape):
            return x
        if self._order is not None:
            x = self._xp.permute_dims(x, self._order)
        at = self._at
        if at is None:
            return x if x.ndim == 1 else self._xp.reshape(x, (-1,))
        if x.ndim == 2 and at == 1:
            return x
        # This depends on the place of the axis alone, not on lengths: one row is computed as it is among many.
        inner = () if at + 1 == x.ndim else (math.prod(x.shape[at + 1 :]),)
        return self._xp.reshape(x, (math.prod(x.shape[:at]), x.shape[at], *inner))

    def back(self, x: Array, keeps_classes: bool) -> Array:
        """Rows, with one number for each class or one alone, in the shape of the logits or of the samples."""
        order, axis, shape = self._order, self._axis, list(self._shape)
        if axis is not None and not keeps_classes:
            shape[axis] = 1
        inner = shape if order is None else [shape[i] for i in order]
        if x.shape != tuple(inner):
            x = self._xp.reshape(x, tuple(inner))
        return x if order is None else self._xp.permute_dims(x, tuple(order.index(i) for i in range(len(order))))


def cut(x: Array | None, shape: tuple[int, ...], block: Block) -> Array | None:
    """A block of `x`, or all of it where it is the same for all rows of `shape`."""
    same = x is None or x.ndim != len(shape) or x.shape[0] != shape[0] or x.shape[2:] != shape[2:]
    return x if same else x[block]  # type: ignore[index]


def blocks(shape: tuple[int, ...], most: int) -> list[Block]:
    """Slices that cover rows of `shape`, with at most about `most` numbers each; they depend on the shape alone."""
    if math.prod(shape) <= most:
        return [()]
    if len(shape) < 3:
        rows = max(1, most // math.prod(shape[1:]))
        # All of about the same size.
        rows = -(-shape[0] // -(-shape[0] // rows))
        return [(slice(i, i + rows),) for i in range(0, shape[0], rows)]
    outer, classes, inner = shape
    runs = max(most // classes, min(inner, _RUN), 1)
    if inner <= runs:
        return [(slice(i, i + runs // inner),) for i in range(0, outer, runs // inner)]
    return [(slice(i, i + 1), slice(None), slice(j, j + runs)) for i in range(outer) for j in range(0, inner, runs)]
