"""JAX: one `custom_jvp` for every kernel, so that jit, vmap, both modes and Hessians follow."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from arrayloss._backends.generic import Arrays, Backend, Call, Step, folded, is_static, rows_in_blocks
from arrayloss._kernels.ops import Array, Ops, Position

# What XLA's CPU compiler adds up of a selection it writes to memory first: 3 times slower from the size on from which
# glibc's malloc takes fresh pages every time (DEFAULT_MMAP_THRESHOLD_MAX; 2048 x 32000, jaxlib 0.10.2).
_WRITTEN_BYTES = 32 * 1024 * 1024
# Numbers up to which XLA's CPU compiler adds one after another, 32 at a time: 2048 equal ones lose 13 units in the last
# place.
_ONE_BY_ONE = 4096
# Of a product that is added to the gradient of a layer's weight, what is written to memory at once.
_PRODUCT_BYTES = 16 * 1024 * 1024


class _Label:
    """The label of each row, by how far each class is from it, in floating point as long as that counts so far.

    XLA's CPU compiler compares integers as int64, of which half as many fit a vector (jaxlib 0.10.2).
    """

    def __init__(self, ops: Ops, x: Array, labels: Array) -> None:
        self._ops, self._labels = ops, labels
        classes = x.shape[ops.axis]
        positions = jnp.arange(classes, dtype=jnp.int32)
        if isinstance(classes, int) and classes <= 2 / ops.epsilon:
            positions, labels = positions.astype(ops.dtype), labels.astype(ops.dtype)
        self._distance = ops.along(positions, x) - labels

    def take(self, x: Array) -> Array:
        if _shared_out(x)[self._ops.axis]:
            return self._ops.sum(jnp.where(self._distance == 0, x, 0))
        return jnp.take_along_axis(x, self._labels, axis=self._ops.axis)

    def put(self, x: Array, value: Array | float) -> Array:
        if isinstance(value, float) and value == 0.0 and _large(x):
            # The same by arithmetic, which is added up without being written: exponentials are at most 1.
            return jnp.minimum(x, jnp.abs(self._distance).astype(x.dtype))
        return jnp.where(self._distance == 0, value, x)


class _Ops(Ops):
    def constant(self, x: Array) -> Array:
        return jax.lax.stop_gradient(x)

    def at_label(self, labels: Array, x: Array) -> Position:
        return _Label(self, x, labels)

    def sum_of_weights(self, x: Array) -> Array:
        # XLA's CPU compiler adds them one after another: the largest are counted apart, as it rounds each sum alike.
        size = jnp.abs(x)
        top = self.max(size)
        top = jnp.where(top < jnp.inf, top, 0)
        sign = self.constant(jnp.where(size == top, jnp.sign(x), 0))
        return self.sum(x - sign * top) + self.sum(sign) * top


def _shared_out(x: Array) -> tuple[Any, ...]:
    """What the type of `x` says of each axis: along which axes of a mesh it is split, if these are explicit."""
    along: tuple[Any, ...] = getattr(getattr(x.aval, "sharding", None), "spec", None) or (None,) * x.ndim
    return along


def _sized(x: Array) -> bool:
    """Whether all lengths are numbers; jax.export has symbols, whose comparisons may be inconclusive."""
    return all(isinstance(n, int) for n in x.shape)


def _large(x: Array) -> bool:
    return _sized(x) and x.size * x.dtype.itemsize > _WRITTEN_BYTES


def _largest(dtype: Any) -> float:
    return float(jnp.finfo(dtype).max)  # type: ignore[no-untyped-call]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _apply(call: Call, arrays: Arrays) -> Array:
    return backend.forward(call, arrays).value


def _jvp(call: Call, primals: Any, tangents: Any) -> tuple[Array, Array]:
    ((arrays,), (dots,)) = primals, tangents
    forward = backend.forward(call, arrays)
    value, tangent = forward.value, jnp.zeros_like(forward.value)
    for vjp, a, v in zip(forward.vjps, arrays, dots, strict=True):
        if a is None or vjp is None or v is None or isinstance(v, SymbolicZero):
            continue
        v = v.astype(call.dtype)
        if forward.jvp is not None:
            tangent = tangent + forward.jvp(v)
            continue
        # One number a row: its derivative is a row, what 1 is pulled back to.
        change = _times(vjp(jnp.ones_like(value)), v)
        summed = call.axis is not None and change.shape != value.shape
        tangent = tangent + (jnp.sum(change, axis=call.axis, keepdims=True) if summed else change)
    return value, tangent


def _times(derivative: Array, v: Array) -> Array:
    """derivative * v, linear in v, and 0 where v is 0 even if the derivative is infinite."""
    infinite, largest = jnp.isinf(derivative), _largest(derivative.dtype)
    # An infinite one, in two factors.
    step = jnp.where(infinite, jnp.full_like(derivative, largest), jnp.ones_like(derivative))
    return jnp.where(infinite, jnp.sign(derivative) * largest, derivative) * (step * v)


_apply.defjvp(_jvp, symbolic_zeros=True)


@partial(jax.jit, static_argnums=0)
def _run(blocks: Any, arrays: Arrays, g: Array | None) -> tuple[Array, Any]:
    return blocks.run(backend, arrays, g)  # type: ignore[no-any-return]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _linear(blocks: Any, summed: bool, arrays: Arrays) -> Array:
    losses, _ = _run(blocks, arrays, None)
    return backend.sum(losses) if summed else losses


def _linear_forward(blocks: Any, summed: bool, inputs: Any) -> tuple[Array, Any]:
    """The losses, and what the derivatives are made of: a vjp, the gradients, or only the arrays."""
    arrays = tuple(None if a is None else a.value for a in inputs)
    if any(a is not None and a.perturbed for a in inputs[3:]):
        losses, vjp = jax.vjp(lambda *a: blocks.whole(backend, a), *arrays)
        return (backend.sum(losses) if summed else losses), (vjp, None, arrays)
    if not summed:
        return _run(blocks, arrays, None)[0], (None, None, arrays)
    losses, gradients = _run(blocks, arrays, jnp.ones((), dtype=blocks.call.dtype))
    return backend.sum(losses), (None, gradients, arrays)


def _linear_backward(blocks: Any, summed: bool, residuals: Any, g: Array) -> tuple[Any]:
    vjp, gradients, arrays = residuals
    if vjp is not None:
        return (vjp(jnp.broadcast_to(g.astype(blocks.call.dtype), (arrays[0].shape[0], 1))),)
    if gradients is None:
        gradients = _run(blocks, arrays, g)[1]
    else:
        gradients = tuple(d if d is None else jnp.where(g == 0, 0, d * g) for d in gradients)
    own = (d if d is None else d.astype(a.dtype) for d, a in zip(gradients, arrays, strict=False))
    return ((*own, *(None for _ in arrays[3:])),)


_linear.defvjp(_linear_forward, _linear_backward, symbolic_zeros=True)


class Jax(Backend):
    def owns(self, x: Any) -> bool:
        return isinstance(x, jax.Array)

    def device(self, x: Array) -> Any:
        if isinstance(x, jax.core.Tracer):
            return None
        devices = x.devices()
        return next(iter(devices)) if len(devices) == 1 else None

    def can_inspect(self, *arrays: Array | None) -> bool:
        concrete = all(
            x is None or (not isinstance(x, jax.core.Tracer) and all(d.platform == "cpu" for d in x.devices()))
            for x in arrays
        )
        # Under jit, operations on arrays that it closes over are staged as well.
        return concrete and not isinstance(jnp.zeros(()), jax.core.Tracer)

    def on_tape(self, *arrays: Array | None) -> bool:
        return True

    def number(self, value: float, like: Array, dtype: Any) -> Array:
        # Uncommitted, so that it goes where it is used.
        return jnp.full((), value, dtype=dtype)

    def sum(self, x: Array, axis: tuple[int, ...] | None = None) -> Array:
        # The default is the widest that there is. Halves of an array that is split over devices would have to
        # be sent from one to another, and a tracer does not say whether it is.
        widest, alone = x.dtype == jnp.result_type(float), jax.device_count() == 1
        if widest and alone and _sized(x) and (axis is not None or x.size < _ONE_BY_ONE):
            x = _folded(x, axis)
        return super().sum(x, axis)

    def gather(self, values: Array, labels: Array) -> Array:
        if any(_shared_out(labels)):
            return values.at[labels].get(out_sharding=labels.aval.sharding)
        return jnp.take(values, labels)

    def ops(self, call: Call) -> Ops:
        return _Ops(jnp, call.dtype, call.axis)

    def runs_blocks(self, *others: Array | None) -> bool:
        return True  # `_linear_forward` is told by which arrays a derivative is asked for

    def linear(self, blocks: Any, arrays: Arrays, *, summed: bool) -> Array:
        return _linear(blocks, summed, arrays)

    def scan(self, step: Step, sums: Arrays, rows: Arrays, size: int, number: int) -> tuple[Arrays, Arrays]:
        if number == 1:
            return step(sums, rows)
        n = rows[0].shape[0]

        def split(x: Array | None) -> Array | None:
            """(n, k) as (size, number, k): each block has rows of all devices that the rows are split over."""
            if x is None or x.ndim == 0 or x.shape[0] != n:
                return x
            padded = jnp.pad(x, ((0, size * number - n), (0, 0)))
            return jnp.reshape(padded, (size, number, x.shape[1]))

        laid = tuple(split(a) for a in rows)

        def of_block(sums: Arrays, i: Array) -> tuple[Arrays, Arrays]:
            block = (x[:, i] if x is not None and x.ndim == 3 else x for x in laid)
            return step(sums, tuple(block))

        sums, results = jax.lax.scan(of_block, sums, jnp.arange(number))
        together = (jnp.reshape(jnp.moveaxis(x, 0, 1), (size * number, x.shape[2]))[:n] for x in results)
        return sums, tuple(together)

    def add_product(self, total: Array, a: Array, b: Array) -> Array:
        # XLA's CPU compiler writes a product to memory before it adds it: here, a part of it at a time. Parts of what
        # is split over devices would have to be sent from one to another.
        n = total.shape[0]
        size, number = rows_in_blocks(n, 4 * b.shape[1], _PRODUCT_BYTES)
        if number == 1 or jax.device_count() > 1:
            return super().add_product(total, a, b)
        of_rows = a.T  # turned back here: in the loop, it would be written to memory turned

        def add(i: Array, total: Array) -> Array:
            start = jnp.minimum(i * size, n - size)
            part = jax.lax.dynamic_slice_in_dim(of_rows, start, size, axis=1)
            # The last part may begin within the one before it.
            part = jnp.where(start + jnp.arange(size) >= i * size, part, 0).T
            there = jax.lax.dynamic_slice_in_dim(total, start, size)
            return jax.lax.dynamic_update_slice_in_dim(total, there + (part @ b).astype(total.dtype), start, 0)

        return jax.lax.fori_loop(0, number, add, total)

    def value(self, call: Call, arrays: Arrays, *, summed: bool = False) -> Array:
        # Traced options get their derivative by the formula itself.
        return _apply(call, arrays) if is_static(call.kernel) else self.forward(call, arrays).value


@partial(jax.jit, static_argnums=1)
def _folded(x: Array, axis: tuple[int, ...] | None) -> Array:
    """A few numbers that have the sum of all, or of those along some axes."""
    if axis is None:
        x, axis = jnp.reshape(x, (1, -1)), (1,)
    for one in axis:
        x = folded(jnp, x, one, 4)
    return x


backend = Jax(jnp)
