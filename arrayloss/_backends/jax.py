"""JAX: one `custom_jvp` for every kernel, so that jit, vmap, forward and reverse mode and Hessians work."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from arrayloss._backends.generic import Arrays, Backend, Call, Step, folded, is_static, rows_in_blocks
from arrayloss._kernels.ops import Array, Ops, Position

# XLA's CPU compiler adds fewer numbers than this one after another, 32 at a time: the sum of 2048 equal numbers is off
# by 13 ULP. So these are folded first.
_ONE_BY_ONE = 4096
# How much of a product `add_product` writes to memory at once.
_PRODUCT_BYTES = 16 * 1024 * 1024


class _Label:
    """The label of each row: the class whose distance from it is 0.

    The distance is a float where the dtype has all class numbers: XLA's CPU compiler compares integers as int64, and
    only half as many of these fit in a vector (jaxlib 0.10.2).
    """

    def __init__(self, ops: Ops, x: Array, labels: Array) -> None:
        self._ops, self._labels = ops, labels
        classes = x.shape[ops.axis]
        positions = jnp.arange(classes, dtype=jnp.int32)
        if isinstance(classes, int) and classes <= 2 / ops.epsilon:
            positions, labels = positions.astype(ops.dtype), labels.astype(ops.dtype)
        self._distance = ops.along(positions, x) - labels

    def take(self, x: Array) -> Array:
        if _sharded_axes(x)[self._ops.axis]:
            return self._ops.sum(jnp.where(self._distance == 0, x, 0))
        return jnp.take_along_axis(x, self._labels, axis=self._ops.axis)

    def put(self, x: Array, value: Array | float) -> Array:
        return jnp.where(self._distance == 0, value, x)


class _Ops(Ops):
    def like(self, value: Array | float, x: Array) -> Array:
        # An array of the same number everywhere would not be sharded as `x` is, and one of nan stops `debug_nans`.
        return value

    def constant(self, x: Array) -> Array:
        return jax.lax.stop_gradient(x)

    def at_label(self, labels: Array, x: Array) -> Position:
        return _Label(self, x, labels)

    def sum_of_weights(self, x: Array) -> Array:
        # XLA's CPU compiler adds one number after another, and for equal numbers the rounding errors have one sign: the
        # largest number is multiplied by how often it occurs, and only the others are added.
        size = jnp.abs(x)
        top = self.max(size)
        top = jnp.where(top < jnp.inf, top, 0)
        sign = self.constant(jnp.where(size == top, jnp.sign(x), 0))
        return self.sum(x - sign * top) + self.sum(sign) * top


def _sharded_axes(x: Array) -> tuple[Any, ...]:
    """For each axis of `x`, the mesh axes that it is sharded along, or None. Only for explicit mesh axes."""
    along: tuple[Any, ...] = getattr(getattr(x.aval, "sharding", None), "spec", None) or (None,) * x.ndim
    return along


def _varying(aval: Any) -> frozenset[Any]:
    """The mesh axes that an array varies over, inside `shard_map`. (Before jax 0.10, its type called them `vma`.)"""
    found: frozenset[Any] = getattr(
        getattr(aval, "manual_axis_type", None), "varying", getattr(aval, "vma", frozenset())
    )
    return found


def _varying_alike(arrays: Arrays) -> Arrays:
    """Inside `shard_map`: arrays that vary over the same mesh axes, as the rules of a custom_vjp ask for.

    JAX sums the derivative with respect to an array that did not vary.
    """
    axes = [frozenset() if a is None else _varying(jax.typeof(a)) for a in arrays]
    every = frozenset().union(*axes)
    return tuple(
        a if a is None or own == every else jax.lax.pcast(a, tuple(every - own), to="varying")
        for a, own in zip(arrays, axes, strict=True)
    )


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
        # The value is one number for each row: its derivative with respect to this input is the vjp of 1.
        change = _times(vjp(jnp.ones_like(value)), v)
        summed = call.axis is not None and change.shape != value.shape
        tangent = tangent + (jnp.sum(change, axis=call.axis, keepdims=True) if summed else change)
    return value, tangent


def _times(derivative: Array, v: Array) -> Array:
    """derivative * v, linear in v, and 0 where v is 0 even if the derivative is infinite."""
    infinite, largest = jnp.isinf(derivative), float(jnp.finfo(derivative.dtype).max)  # type: ignore[no-untyped-call]
    # In place of inf, two finite factors: with v = 0 their product is 0, not nan.
    step = jnp.where(infinite, jnp.asarray(largest, dtype=derivative.dtype), 1.0)
    return jnp.where(infinite, jnp.sign(derivative) * largest, derivative) * (step * v)


_apply.defjvp(_jvp, symbolic_zeros=True)


@partial(jax.jit, static_argnums=(0, 3))
def _run(blocks: Any, arrays: Arrays, g: Array | None, needed: tuple[bool, ...]) -> tuple[Array, Any]:
    return blocks.run(backend, arrays, g, needed)  # type: ignore[no-any-return]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _linear(blocks: Any, summed: bool, arrays: Arrays) -> Array:
    losses, _ = backend.run_blocks(blocks, arrays, None)
    return backend.sum(losses) if summed else losses


def _linear_forward(blocks: Any, summed: bool, inputs: Any) -> tuple[Array, Any]:
    """The losses, and what the derivatives are made of: a vjp, the gradients, or only the arrays."""
    arrays = tuple(None if a is None else a.value for a in inputs)
    if any(a is not None and a.perturbed for a in inputs[3:]):
        losses, vjp = jax.vjp(lambda *a: blocks.whole(backend, a), *arrays)
        return (backend.sum(losses) if summed else losses), (vjp, None, arrays)
    if not summed:
        return backend.run_blocks(blocks, arrays, None)[0], (None, None, arrays)
    losses, gradients = backend.run_blocks(blocks, arrays, jnp.ones((), dtype=blocks.call.dtype))
    return backend.sum(losses), (None, gradients, arrays)


def _linear_backward(blocks: Any, summed: bool, residuals: Any, g: Array) -> tuple[Any]:
    vjp, gradients, arrays = residuals
    if vjp is not None:
        return (vjp(jnp.broadcast_to(g.astype(blocks.call.dtype), (arrays[0].shape[0], 1))),)
    if gradients is None:
        gradients = backend.run_blocks(blocks, arrays, g)[1]
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
        # Not committed to a device, so that JAX moves it to where it is used.
        return jnp.full((), value, dtype=dtype)

    def sum(self, x: Array, axis: tuple[int, ...] | None = None) -> Array:
        # Narrower dtypes are summed in the widest, which needs no folding. Nor is anything folded with several devices:
        # halves of a sharded array would be sent between them, and a tracer does not say whether it is sharded.
        widest, alone = x.dtype == jnp.result_type(float), jax.device_count() == 1
        # jax.export has symbols for lengths, whose comparisons may be inconclusive.
        sized = all(isinstance(n, int) for n in x.shape)
        if widest and alone and sized and (axis is not None or x.size < _ONE_BY_ONE):
            x = _folded(x, axis)
        return super().sum(x, axis)

    def gathered(self, x: Array) -> Array:
        # By itself, JAX does so only on meshes without explicit axes.
        if not any(_sharded_axes(x)):
            return x
        return jax.sharding.reshard(x, jax.sharding.PartitionSpec())  # type: ignore[no-untyped-call]

    def gather(self, values: Array, labels: Array) -> Array:
        if any(_sharded_axes(labels)):
            return values.at[labels].get(out_sharding=labels.aval.sharding)
        return jnp.take(values, labels)

    def ops(self, call: Call) -> Ops:
        return _Ops(jnp, call.dtype, call.axis)

    def runs_blocks(self, layer: Arrays, others: Arrays) -> bool:
        # Whatever the others are: `_linear_forward` is told which arrays are differentiated. But no block of rows can
        # be cut out of an explicitly sharded array.
        return not any(a is not None and any(_sharded_axes(a)) for a in layer)

    def linear(self, blocks: Any, arrays: Arrays, *, summed: bool) -> Array:
        return _linear(blocks, summed, _varying_alike(arrays))

    def run_blocks(
        self, blocks: Any, arrays: Arrays, g: Array | None, needed: tuple[bool, ...] = (True, True, True)
    ) -> tuple[Array, Any]:
        return _run(blocks, arrays, g, needed)  # type: ignore[no-any-return]

    def scan(self, step: Step, sums: Arrays, rows: Arrays, size: int, number: int) -> tuple[Arrays, Arrays]:
        if number == 1:
            return step(sums, rows)
        n = rows[0].shape[0]

        def split(x: Array | None) -> Array | None:
            """(n, k) as (size, number, k): each block has rows of every device that the rows are sharded over."""
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
        # XLA's CPU compiler writes a product to memory before it adds it: here, one part of it at a time. With several
        # devices it is not cut: parts of a sharded array would be sent between devices.
        n = total.shape[0]
        size, number = rows_in_blocks(n, 4 * b.shape[1], _PRODUCT_BYTES)
        if number == 1 or jax.device_count() > 1:
            return super().add_product(total, a, b)
        of_rows = a.T  # outside of the loop, in which XLA would write the transposed array to memory

        def add(i: Array, total: Array) -> Array:
            start = jnp.minimum(i * size, n - size)
            part = jax.lax.dynamic_slice_in_dim(of_rows, start, size, axis=1)
            # The last part may overlap the one before it: rows that are added already become 0.
            part = jnp.where(start + jnp.arange(size) >= i * size, part, 0).T
            there = jax.lax.dynamic_slice_in_dim(total, start, size)
            return jax.lax.dynamic_update_slice_in_dim(total, there + (part @ b).astype(total.dtype), start, 0)

        return jax.lax.fori_loop(0, number, add, total)

    def value(self, call: Call, arrays: Arrays, *, summed: bool = False) -> Array:
        # If an option is traced, JAX differentiates the formula itself.
        if is_static(call.kernel):
            return _apply(call, arrays)
        return self.forward(call, self.differentiable(call, arrays)).value


@partial(jax.jit, static_argnums=1)
def _folded(x: Array, axis: tuple[int, ...] | None) -> Array:
    """`x` folded to a few numbers that have the same sum, over all axes or along some."""
    if axis is None:
        x, axis = jnp.reshape(x, (1, -1)), (1,)
    for one in axis:
        x = folded(jnp, x, one, 4)
    return x


backend = Jax(jnp)
