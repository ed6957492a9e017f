"""Rows and blocks, for the libraries whose arrays lie in memory and can be written to.

Arrays with a class axis become (outer, classes, inner), or (rows, classes) where that axis is the last in memory;
elementwise ones become flat. Nothing is copied where the axes lie in another order in memory. A kernel goes through
the rows block by block, so that its temporary arrays stay in a cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from arrayloss._kernels.ops import Array, Namespace

Block = tuple[slice, ...]
Arrays = tuple[Any, ...]

# The fewest numbers in a row of memory that a block of (outer, k, inner) is made of: 128 bytes take as long as 1000.
_RUN = 64


@dataclass(frozen=True)
class Rows:
    """How arrays of `shape`, with the classes along `axis` (None: no classes), become rows, and back.

    `order` is that of the axes in memory, the outermost first.
    """

    xp: Namespace
    shape: tuple[int, ...]
    axis: int | None
    order: tuple[int, ...]

    def of(self, x: Array) -> Array:
        """`x`, of `shape`, or with length 1 along the class axis, as rows; one number stays one, to be broadcast."""
        xp = self.xp
        if x.ndim != len(self.shape):
            return x
        if self.order != tuple(range(x.ndim)):
            x = xp.permute_dims(x, self.order)
        shape = self._rows(x.shape)
        return x if x.shape == shape else xp.reshape(x, shape)

    def back(self, x: Array, keeps_classes: bool) -> Array:
        """Rows, with one number for each class or one alone, in the shape of the logits or of the samples."""
        xp = self.xp
        shape = tuple(1 if i == self.axis and not keeps_classes else n for i, n in enumerate(self.shape))
        inner = tuple(shape[i] for i in self.order)
        if x.shape != inner:
            x = xp.reshape(x, inner)
        if self.order != tuple(range(len(shape))):
            x = xp.permute_dims(x, tuple(self.order.index(i) for i in range(len(shape))))
        return x

    def _rows(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.axis is None:
            return (math.prod(shape),)
        at = self.order.index(self.axis)
        rows = (math.prod(shape[:at]), shape[at])
        # By the place of the axis alone: one row is computed as many are.
        return rows if at + 1 == len(shape) else (*rows, math.prod(shape[at + 1 :]))


def cut(x: Array | None, shape: tuple[int, ...], block: Block) -> Array | None:
    """A block of `x`, or all of it where it is the same for all rows of `shape`."""
    same = x is None or x.ndim != len(shape) or x.shape[0] != shape[0] or x.shape[2:] != shape[2:]
    return x if same else x[block]  # type: ignore[index]


def blocks(shape: tuple[int, ...], most: int) -> list[Block]:
    """Slices that cover rows of `shape`, with at most about `most` numbers each; they depend on the shape alone."""
    if math.prod(shape) <= most:
        return [()]
    return list(_blocks(shape, most))


def _blocks(shape: tuple[int, ...], most: int) -> Iterator[Block]:
    if len(shape) < 3:
        rows = max(1, most // math.prod(shape[1:]))
        # All of about the same size.
        rows = -(-shape[0] // -(-shape[0] // rows))
        yield from ((slice(i, i + rows),) for i in range(0, shape[0], rows))
        return
    outer, classes, inner = shape
    runs = max(most // classes, min(inner, _RUN), 1)
    if inner <= runs:
        yield from ((slice(i, i + runs // inner),) for i in range(0, outer, runs // inner))
    else:
        yield from (
            (slice(i, i + 1), slice(None), slice(j, j + runs)) for i in range(outer) for j in range(0, inner, runs)
        )


def one_by_one(task: Callable[[int, Block], None], parts: list[Block]) -> None:
    """`task` of the number and the slices of every block."""
    for i, block in enumerate(parts):
        task(i, block)
