"""JAX: one `custom_jvp` for every kernel, so that jit, vmap, both modes and Hessians follow."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from arrayloss._backends.generic import Arrays, Backend, Call, halved, is_static
from arrayloss._kernels.ops import Array, Ops, Position

# What XLA's CPU compiler adds up of a selection it writes to memory first: 3 times slower from the size on from which
# glibc's malloc takes fresh pages every time (DEFAULT_MMAP_THRESHOLD_MAX; 2048 x 32000, jaxlib 0.10.2).
_WRITTEN_BYTES = 32 * 1024 * 1024
# Numbers up to which XLA's CPU compiler adds one after another, 32 at a time: 2048 equal ones lose 13 units in the last
# place.
_ONE_BY_ONE = 4096


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

    def sum(self, x: Array) -> Array:
        # The default is the widest that there is.
        alone = x.dtype == jnp.result_type(float) and _sized(x) and x.size < _ONE_BY_ONE
        return super().sum(_folded(x) if alone else x)

    def ops(self, call: Call) -> Ops:
        return _Ops(jnp, call.dtype, call.axis)

    def value(self, call: Call, arrays: Arrays, *, summed: bool = False) -> Array:
        # Traced options get their derivative by the formula itself.
        return _apply(call, arrays) if is_static(call.kernel) else self.forward(call, arrays).value


@jax.jit
def _folded(x: Array) -> Array:
    """A few numbers that have the sum of all."""
    return halved(jnp, jnp.reshape(x, (1, -1)), 1, 4)


backend = Jax(jnp)
