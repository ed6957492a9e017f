"""A linear layer before a loss: logits = hidden @ weight.T + bias, computed one block of rows at a time.

With a vocabulary of 128,256 classes and 2048 rows, the logits take 1 GB, and their gradient as much. Here the logits of
one block of rows are computed at a time. From them come the losses of these rows, by the loss's own kernel, and the
block's part of the gradients of hidden, weight and bias. Then the next block takes their memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from arrayloss._backends.generic import Arrays, Backend, Call, rows_in_blocks
from arrayloss._kernels.ops import Array


class Gradients(NamedTuple):
    """The derivatives of `linear_cross_entropy`; `bias` is None where the loss was given none."""

    hidden: Any
    weight: Any
    bias: Any


def _logits(
    backend: Backend,
    dtype: Any,
    softcap: Any,
    hidden: Array,
    weight: Array,
    bias: Array | None,
    scratch: Array | None = None,
) -> tuple[Array, Any]:
    """The logits, in the dtype to compute in, and the derivative of the softcap at each of them (None: no softcap)."""
    x = backend.product(hidden, weight.T, scratch)
    if bias is not None:
        x = x + backend.xp.reshape(bias, (*(1 for _ in x.shape[1:]), -1))
    x = backend.astype(x, dtype)
    if softcap is None:
        return x, None
    xp, cap = backend.xp, softcap if isinstance(softcap, (int, float)) else backend.astype(softcap, dtype)
    x = x / cap
    e = xp.exp(-2 * xp.abs(x))
    # 1 - tanh^2, in which nothing cancels.
    return cap * xp.tanh(x), 4 * e / ((1 + e) * (1 + e))


def _moved(xp: Any, x: Array, axis: Any, place: Any) -> Array:
    """moveaxis of one axis, for which torch.func.vmap has no rule."""
    order = [i for i in range(x.ndim) if i != axis % x.ndim]
    order.insert(place % x.ndim, axis % x.ndim)
    return xp.permute_dims(x, tuple(order))


@dataclass(frozen=True)
class Blocks:
    """How rows of hidden become losses and gradients: `call` is that of the loss of the logits.

    The arrays that the methods take: hidden (rows, features), weight (classes, features), bias (classes,) or None, and
    the inputs of the loss after the logits.
    """

    call: Call
    softcap: Any

    def whole(self, backend: Backend, arrays: Arrays) -> Array:
        """The losses (rows, 1), differentiable by the library's own autodiff by each of the arrays."""
        hidden, weight, bias, *others = arrays
        x, _ = _logits(backend, self.call.dtype, self.softcap, hidden, weight, bias)
        prepared = (backend.prepared(self.call, a) for a in others)
        return self.call.kernel.forward(backend.ops(self.call), x, *prepared).value

    def run(self, backend: Backend, arrays: Arrays, g: Array | None, needed: tuple[bool, ...]) -> tuple[Array, Any]:
        """The losses (rows, 1); for a cotangent `g` of them also the gradients, those that are needed."""
        hidden, weight, bias, *others = arrays
        xp, dtype = backend.xp, self.call.dtype

        def step(sums: Arrays, rows: Arrays) -> tuple[Arrays, Arrays]:
            h, cotangent, *inputs = rows
            x, slope = _logits(backend, dtype, self.softcap, h, weight, bias, scratch)
            if g is None:
                return sums, (backend.value(self.call, (x, *inputs)),)
            loss, d = backend.value_and_gradient(self.call, (x, *inputs), cotangent, overwrite=True)
            if slope is not None:
                d = d * slope
            of_weight, of_bias = sums
            if of_bias is not None:
                of_bias = of_bias + xp.sum(d, axis=0)
            d = backend.astype(d, h.dtype)
            if of_weight is not None:
                of_weight = backend.add_product(of_weight, d.T, h)
            return (of_weight, of_bias), (loss, d @ weight if needed[0] else d[:, :0])

        classes = weight.shape[0]
        # How many arrays of a block's size are there at once.
        copies = 1 + (bias is not None) + (hidden.dtype != dtype) + 4 * (self.softcap is not None)
        width = classes * copies * max(4, xp.finfo(dtype).bits // 8)
        size, number = rows_in_blocks(hidden.shape[0], width, backend.logits_bytes)
        scratch = backend.scratch((size, classes), hidden)
        if g is None:
            _, (losses,) = backend.scan(step, (), (hidden, None, *others), size, number)
            return losses, None
        g = xp.broadcast_to(g, (hidden.shape[0], 1))
        sums = tuple(
            xp.zeros_like(a, dtype=dtype) if a is not None and need else None
            for a, need in zip((weight, bias), needed[1:3], strict=True)
        )
        (of_weight, of_bias), (losses, of_hidden) = backend.scan(step, sums, (hidden, g, *others), size, number)
        return losses, Gradients(of_hidden if needed[0] else None, of_weight, of_bias)


@dataclass
class Head:
    """The layer, and what runs a loss of its logits: it has the three methods of a backend that run a kernel."""

    backend: Backend
    weight: Array
    bias: Array | None
    softcap: Any

    @property
    def classes(self) -> Any:
        return self.weight.shape[0]

    def whole(self, hidden: Array, axis: int, dtype: Any) -> tuple[Array, Callable[[Array], Gradients]]:
        """The logits, all of them, and a function from their gradient to those of hidden, weight and bias."""
        backend, xp, weight, bias = self.backend, self.backend.xp, self.weight, self.bias
        h = _moved(xp, hidden, axis, -1)
        x, slope = _logits(backend, dtype, self.softcap, h, weight, bias)

        def gradients(d: Array) -> Gradients:
            d = _moved(xp, d, axis, -1)
            d = xp.reshape(d if slope is None else d * slope, (-1, self.classes))
            of_bias = None if bias is None else xp.sum(d, axis=0)
            d = backend.astype(d, h.dtype)
            of_hidden = _moved(xp, xp.reshape(d @ weight, h.shape), -1, axis)
            return Gradients(of_hidden, d.T @ xp.reshape(h, (-1, h.shape[-1])), of_bias)

        return _moved(xp, x, -1, axis), gradients

    def value(self, call: Call, arrays: Arrays, *, summed: bool = False) -> Array:
        blocks, rows = self._rows(call, arrays)
        losses = self.backend.linear(blocks, rows, summed=summed)
        return losses if summed else self._back(losses, arrays[0], call.axis, 1)

    def value_and_gradient(
        self, call: Call, arrays: Arrays, cotangent: Array, *, summed: bool = False
    ) -> tuple[Array, Gradients]:
        blocks, rows = self._rows(call, arrays)
        (g,) = self._as_rows(call, (self.backend.astype(cotangent, call.dtype),), arrays[0])
        losses, (of_hidden, *others) = self.backend.run_blocks(blocks, rows, g)
        of_hidden = self._back(of_hidden, arrays[0], call.axis, rows[0].shape[1])
        return self._back(losses, arrays[0], call.axis, 1), Gradients(of_hidden, *others)

    def reduced(
        self, call: Call, arrays: Arrays, reduce: Callable[[Array], Array], cotangent: Callable[[], Array]
    ) -> Array:
        return reduce(self.value(call, arrays, summed=True))

    def _rows(self, call: Call, arrays: Arrays) -> tuple[Blocks, Arrays]:
        hidden, *others = self._as_rows(call, arrays, arrays[0])
        return Blocks(Call(call.kernel, 1, call.dtype), self.softcap), (hidden, self.weight, self.bias, *others)

    def _as_rows(self, call: Call, arrays: Arrays, hidden: Array) -> list[Any]:
        xp, ndim = self.backend.xp, hidden.ndim
        return [
            a if a is None or a.ndim != ndim else xp.reshape(_moved(xp, a, call.axis, -1), (-1, a.shape[call.axis]))
            for a in arrays
        ]

    def _back(self, rows: Array, hidden: Array, axis: Any, length: int) -> Array:
        xp = self.backend.xp
        shape = (*hidden.shape[:axis], *hidden.shape[axis + 1 :], length)
        return _moved(xp, xp.reshape(rows, shape), -1, axis)
