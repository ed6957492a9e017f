"""What NumPy, PyTorch and CuPy share: arrays that can be written to, computed in rows, block by block."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from arrayloss._backends.generic import Arrays, Backend, Call, rows_in_blocks
from arrayloss._backends.rows import Block, Rows, blocks, cut
from arrayloss._kernels.ops import Array, Namespace, Ops, Position

_PRODUCT_BYTES = 4 * 1024 * 1024


class Indexed:
    """One class of each row, by index: arrays are (rows, classes) or (outer, classes, inner)."""

    def __init__(self, xp: Namespace, labels: Array) -> None:
        outer, _, *inner = labels.shape
        index = xp.arange(outer, dtype=labels.dtype, device=labels.device)
        if inner:
            of_inner = xp.arange(inner[0], dtype=labels.dtype, device=labels.device)
            self._index: tuple[Array, ...] = (index[:, None, None], labels, of_inner[None, None, :])
        else:
            self._index = (index[:, None], labels)

    def take(self, x: Array) -> Array:
        return x[self._index]

    def put(self, x: Array, value: Array | float) -> Array:
        x[self._index] = value
        return x


class InPlace(Ops):
    """The operations on arrays that nobody else sees: written to, and indexed. Their class axis is 1.

    `out`, if there is one, is where the exponentials of a block go, as they will become its gradient.
    """

    def __init__(self, xp: Namespace, dtype: Any, out: Array | None) -> None:
        super().__init__(xp, dtype, 1)
        self.out = out

    def at_label(self, labels: Array, x: Array) -> Position:
        return Indexed(self.xp, labels)

    def at_max(self, x: Array, top: Array) -> Position:
        return self.at_label(self.xp.argmax(x, axis=1, keepdims=True), x)

    def peel(self, e: Array, at: Any) -> Array:
        own = at.take(e)
        rest = self.sum(at.put(e, 0.0))
        at.put(e, own)
        return rest

    def exp_below(self, x: Array, top: Array) -> Array:
        xp, out = self.xp, self.claim_out(x)
        d = xp.subtract(x, top) if out is None else xp.subtract(x, top, out=out)
        xp.minimum(d, self.like(0.0, d), out=d)
        return xp.exp(d, out=d)

    def claim_out(self, x: Array) -> Array | None:
        """The array for the gradient, on the first call, if it has the shape and dtype of `x`; otherwise None."""
        out, self.out = self.out, None
        return out if out is not None and out.dtype == x.dtype and out.shape == x.shape else None

    def like(self, value: Array | float, x: Array) -> Array:
        return self.zero_d(value, x.device) if isinstance(value, (int, float)) else value

    def zero_d(self, value: float, device: Any) -> Array:
        """A 0-d array."""
        return self.xp.asarray(value, dtype=self.dtype, device=device)

    def not_above(self, x: Array, bound: float) -> Array:
        return self.xp.minimum(x, self.like(bound, x))

    def scale(self, x: Array, factor: Array) -> Array:
        x *= factor
        return self.xp.where(factor == 0, self.like(0.0, x), x)

    def sides(self, x: Array) -> tuple[Array, Array]:
        zero = self.like(0.0, x)
        return self.xp.maximum(x, zero), self.xp.maximum(-x, zero)

    def one_by_sign(self, x: Array, e: Array) -> tuple[Array, Array]:
        # A maximum does the selection: e is in [0, 1], 1 at x = 0, and nan where x is.
        sign = self.xp.sign(x)
        return self.xp.maximum(e, sign), self.xp.maximum(e, -sign)


class InPlaceBackend(Backend):
    """Runs kernels over rows in blocks, and writes gradients to their place."""

    block_bytes: int
    # More than elsewhere, as the gradient overwrites the logits.
    logits_bytes = 52 * 1024 * 1024

    def strides(self, x: Array) -> tuple[int, ...]:
        """How far the elements along each axis are apart in memory."""
        return tuple(x.strides)

    def contiguous(self, x: Array) -> bool:
        """Whether the axes lie in memory in their own order, without gaps."""
        return bool(x.flags.c_contiguous)

    def rows(self, call: Call, x: Array) -> Rows:
        """How the logits lie in memory: broadcast axes are the outermost, then the axis with the largest stride."""
        order = None
        if not self.contiguous(x):
            strides = self.strides(x)
            order = tuple(sorted(range(x.ndim), key=lambda d: -abs(strides[d]) if strides[d] else -math.inf))
        return Rows(self.xp, tuple(x.shape), call.axis, order)

    def row_ops(self, call: Call, out: Array | None) -> InPlace:
        """The operations for a block of rows; exponentials may be written to `out`."""
        raise NotImplementedError

    def value(self, call: Call, arrays: Arrays, *, summed: bool = False) -> Array:
        return self._run(call, arrays, None, summed)[0]

    def value_and_gradient(
        self, call: Call, arrays: Arrays, cotangent: Array, *, summed: bool = False, overwrite: bool = False
    ) -> tuple[Array, Array]:
        return self._run(call, arrays, cotangent, summed, overwrite)

    def _run(
        self, call: Call, arrays: Arrays, cotangent: Array | None, summed: bool, overwrite: bool = False
    ) -> tuple[Array, Array]:
        """The value, or a sum for each block, and the gradient if there is a cotangent."""
        layout = self.rows(call, arrays[0])
        rows: Arrays = tuple(None if a is None else layout.of(a) for a in arrays)
        g = None if cotangent is None else layout.of(self.astype(cotangent, call.dtype))
        x, shape, keeps = rows[0], tuple(rows[0].shape), call.kernel.keeps_classes
        placed = g is not None and not overwrite
        parts = blocks(shape, self.block_size(x, placed=placed))
        gradient = x if overwrite else None if g is None else self.empty(shape, x, x.dtype)
        if len(parts) == 1:
            value = self._block(call, rows, g, gradient, placed)
        else:
            one_sum_per_block = summed and call.axis is None
            of_rows = tuple(n if keeps or i != 1 else 1 for i, n in enumerate(shape))
            value = self.empty(
                (len(parts),) if one_sum_per_block else of_rows, x, self.xp.float64 if one_sum_per_block else call.dtype
            )

            def task(number: int, block: Block) -> None:
                here = tuple(cut(a, shape, block) for a in rows)
                made = self._block(call, here, cut(g, shape, block), cut(gradient, shape, block), placed)
                value[number if one_sum_per_block else block] = self.sum(made) if one_sum_per_block else made

            self.each(task, parts, x)
            if one_sum_per_block:
                return value, None if gradient is None else layout.back(gradient, True)
        return layout.back(value, keeps), None if gradient is None else layout.back(gradient, True)

    def _block(self, call: Call, rows: Arrays, g: Array | None, out: Array | None, placed: bool) -> Array:
        """The value; the gradient is written to `out`. If `placed`, the exponentials are written there first."""
        ops = self.row_ops(call, out if placed else None)
        forward = call.kernel.forward(ops, *(self.prepared(call, a) for a in rows))
        if out is not None:
            vjp = forward.vjps[0]
            assert vjp is not None  # every loss has a derivative by the logits
            gradient = vjp(g)
            if gradient is not out:
                out[...] = gradient
        return forward.value

    def scratch(self, shape: tuple[int, ...], like: Array) -> Array:
        return self.empty(shape, like, like.dtype)

    def product(self, a: Array, b: Array, scratch: Array | None) -> Array:
        return a @ b if scratch is None else self.xp.matmul(a, b, out=scratch[: a.shape[0]])

    def add_product(self, total: Array, a: Array, b: Array) -> Array:
        # In parts: the whole product would take as much memory again as `total`, the gradient of a layer's weight.
        size, number = rows_in_blocks(total.shape[0], 4 * b.shape[1], _PRODUCT_BYTES)
        scratch = self.scratch((size, b.shape[1]), b)
        for i in range(0, size * number, size):
            total[i : i + size] += self.product(a[i : i + size], b, scratch)
        return total

    def each(self, task: Callable[[int, Block], None], parts: list[Block], x: Array) -> None:
        """`task` of the number and the slices of every block of `x`."""
        for i, block in enumerate(parts):
            task(i, block)

    def block_size(self, x: Array, *, placed: bool) -> int:
        """How many numbers a block has, of rows such as `x`; with `placed`, the gradient's array holds exponentials."""
        return self.block_bytes // max(4, int(x.dtype.itemsize))

    def empty(self, shape: tuple[int, ...], like: Array, dtype: Any) -> Array:
        return self.xp.empty(shape, dtype=dtype, device=like.device)
