"""JAX: one `custom_jvp` for every kernel, so that jit, vmap, both modes and Hessians follow."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from arrayloss._kernels import Evaluated, leaves_label_out
from arrayloss._libraries.generic import Library
from arrayloss._modes import Array, ComparedLabels, Traced, halved
from arrayloss._rows import Arrays, whole

# XLA's CPU compiler has two ways with a sum of exponentials. What YNNPACK can do, which is arithmetic but no selection,
# it does in one go, at the price of a pass over the cache for every operation. Of anything else it makes vector code,
# whose result it writes to memory before the sum: the faster way, up to the size from which glibc's malloc takes fresh
# pages every time (DEFAULT_MMAP_THRESHOLD_MAX), and 3 times slower at 2048 x 32000 (jaxlib 0.10.2).
_WRITTEN_BYTES = 32 * 1024 * 1024
# Numbers up to which XLA's CPU compiler adds one after another, 32 at a time: 2048 equal ones lose 13 units in the last
# place.
_ONE_BY_ONE = 4096


class _Traced(Traced):
    def positions(self, classes: int, labels: Array) -> Array:
        """In floating point as long as that counts so far.

        XLA's CPU compiler compares integers as int64, of which half as many fit a vector: it takes twice as long for
        the exponentials (jaxlib 0.10.2). It takes longer as well for numbers that are floating point from the first.
        """
        if classes > 2 / self.xp.finfo(self.dtype).eps:
            return super().positions(classes, labels)
        return jnp.arange(classes, dtype=jnp.int32).astype(self.dtype)

    def arange(self, n: int, like: Array) -> Array:
        # Uncommitted, so that it goes where it is used; a tracer has no device.
        return jnp.arange(n, dtype=like.dtype)

    def of_rows(self, f: Callable[..., tuple[Array, ...]], *columns: Array | None) -> tuple[Array, ...]:
        return tuple(jnp.reshape(a, (-1, 1)) for a in f(*_in_a_row(columns)))

    def log_complement(self, p: Array) -> Array:
        # XLA's float64 log1p is 128 ULP off about -0.41 (jaxlib 0.10.2); 1 - p is right to half of one from 1/4 up.
        return jnp.where(p < 0.25, jnp.log1p(-p), jnp.log(1 - p))


class _MaskedLabels(ComparedLabels):
    """By arithmetic: how far every class is from the label, times a power of two that is more than any exponential."""

    def __init__(self, mode: Traced, x: Array, labels: Array, scale: float) -> None:
        super().__init__(mode, x, labels)
        positions = mode.positions(x.shape[1], labels)
        if positions.dtype == mode.dtype:
            self._distance = jnp.abs(positions[None, :] * scale - labels.astype(mode.dtype) * scale)
        else:
            self._distance = jnp.abs(positions[None, :] - labels).astype(mode.dtype) * scale

    def drop(self, e: Array) -> Array:
        return jnp.minimum(e, self._distance)

    def spread(self, e: Array, others: Array, at_label: Array) -> Array:
        here = 1 - jnp.minimum(self._distance, jnp.ones_like(at_label))
        return e * others + here * at_label


class _Large(_Traced):
    """For more than is well written to memory: of all elements, arithmetic alone."""

    def labels(self, x: Array, labels: Array) -> Any:
        return _MaskedLabels(self, x, labels, 2.0 ** math.ceil(1.5 * (self.depth + 1)))

    def exp_below(self, x: Array, d: Array, top: Array, near: float, base: Array | None = None) -> Array:
        if base is None:
            return super().exp_below(x, d, top, near)
        # No infinities, but far enough down for exp to be 0. Nothing is clipped to a constant, which XLA's CPU compiler
        # takes 5 times as long for.
        x = jnp.minimum(jnp.maximum(x, top - jnp.maximum(jnp.abs(top) / 2, jnp.full_like(top, 1000.0))), top)
        d = x - base
        return jnp.exp(d) * (1 + (x - (d + base)))


class _Unscaled(_Traced):
    """For a value alone, of exponentials of the logits as they are; `in_range`, once it is made, says if it is right.

    One pass of arithmetic alone, where all else takes the maximum first and makes its rounding good.
    """

    in_range: Array

    def __init__(self, xp: Any, dtype: Any) -> None:
        super().__init__(xp, dtype)
        self._half_exponent = math.floor(math.log2(float(xp.finfo(dtype).max))) // 2

    def labels(self, x: Array, labels: Array) -> Any:
        return _MaskedLabels(self, x, labels, 2.0**self._half_exponent)

    def unscaled(self, x: Array, labels: Any, near: float) -> tuple[Array, Array, Array, Array]:
        dropped = labels.drop(jnp.exp(x))
        others, e = self.sum(dropped), jnp.exp(labels.take(x))
        # Their quotients are normal numbers then, and no exponential that was flushed to 0 matters. A nan fails.
        largest = 2.0 ** (self._half_exponent - 1)
        fits = (others + e <= largest) & (jnp.minimum(others, e) * largest >= 1)
        self.in_range = _all(fits)
        # Nothing out of range is divided by, lest jax.experimental.checkify tells of it.
        others, e = (jnp.where(fits, a, jnp.ones_like(a)) for a in (others, e))
        return dropped, others, e, others + e


@jax.custom_batching.custom_vmap
def _all(condition: Array) -> Array:
    """Whether it holds everywhere, in all of what is mapped over: what hangs on it stays one branch."""
    return jnp.all(condition)


@_all.def_vmap
def _all_mapped(size: int, mapped: Any, condition: Array) -> tuple[Array, bool]:
    return _all(condition), False


def _sized(x: Array) -> bool:
    """Whether all lengths are numbers; jax.export has symbols, whose comparisons may be inconclusive."""
    return all(isinstance(n, int) for n in x.shape)


def _mode(dtype: Any, x: Array) -> Traced:
    large = _sized(x) and x.size * jnp.dtype(dtype).itemsize > _WRITTEN_BYTES
    return _Large(jnp, dtype) if large else _Traced(jnp, dtype)


def _compiles(arrays: Arrays) -> bool:
    """Whether a compiler traces. So does an eager `vmap`, but what is asked of all that it maps over is a number."""
    traced = [a for a in arrays if isinstance(a, jax.core.Tracer)]
    return any(isinstance(_all(a[:0] == 0), jax.core.Tracer) for a in traced)


def _value(mode: Traced, kernel: Any, arrays: Arrays) -> Array:
    return whole(jnp, lambda *rows: (kernel(mode, *rows).value,), arrays)[0]


def _scaled(kernel: Any, arrays: Arrays) -> Array:
    return _value(_mode(kernel.dtype, arrays[0]), kernel, arrays)


def _unscaled(kernel: Any, arrays: Arrays) -> Array:
    mode = _Unscaled(jnp, kernel.dtype)
    value = _value(mode, kernel, arrays)
    return jax.lax.cond(mode.in_range, lambda: value, lambda: _scaled(kernel, arrays))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _apply(kernel: Any, arrays: Arrays) -> Array:
    if not (leaves_label_out(kernel) and _compiles(arrays)):
        return _scaled(kernel, arrays)
    # An accelerator would have to wait for the condition.
    return jax.lax.platform_dependent(arrays, cpu=partial(_unscaled, kernel), default=partial(_scaled, kernel))


def _jvp(kernel: Any, primals: Any, tangents: Any) -> tuple[Array, Array]:
    ((arrays,), (dots,)) = primals, tangents
    mode = _mode(kernel.dtype, arrays[0])
    moving = [i for i, v in enumerate(dots) if v is not None and not isinstance(v, SymbolicZero)]

    def work(*rows: Array) -> tuple[Array, Array]:
        evaluated: Evaluated = kernel(mode, *rows[: len(arrays)])
        value = evaluated.value
        tangent = jnp.zeros_like(value)
        for i, v in zip(moving, rows[len(arrays) :], strict=True):
            v = mode.real(v)
            pull = evaluated.pulls[i]
            if evaluated.push is not None:
                tangent += evaluated.push(v)
            elif pull is not None and kernel.elementwise:
                tangent += pull(jnp.ones_like(value)) * v
            elif pull is not None:
                # One number a row: its derivative is a row, what 1 is pulled back to.
                tangent += jnp.sum(pull(jnp.ones_like(value)) * v, axis=1, keepdims=True)
        return value, tangent

    value, tangent = whole(jnp, work, (*arrays, *(dots[i] for i in moving)))
    return value, tangent


_apply.defjvp(_jvp, symbolic_zeros=True)


class Jax(Library):
    def owns(self, x: Any) -> bool:
        return isinstance(x, jax.Array)

    def device(self, x: Array) -> Any:
        if isinstance(x, jax.core.Tracer):
            return None
        devices = x.devices()
        return next(iter(devices)) if len(devices) == 1 else None

    def looks(self, *arrays: Array | None) -> bool:
        return all(
            x is None or (not isinstance(x, jax.core.Tracer) and all(d.platform == "cpu" for d in x.devices()))
            for x in arrays
        )

    def sum(self, x: Array) -> Array:
        # The default is the widest that there is.
        alone = x.dtype == jnp.result_type(float) and _sized(x) and x.size < _ONE_BY_ONE
        return super().sum(_folded(x) if alone else x)

    def differentiates(self, *arrays: Array | None) -> bool:
        return True

    def mode(self, dtype: Any, *arrays: Array | None) -> Traced:
        return _mode(dtype, arrays[0])

    def apply(self, kernel: Any, arrays: Arrays, *, summed: bool = False) -> Array:
        if not kernel.elementwise:
            return _apply(kernel, arrays)
        return jnp.reshape(_apply(kernel, _in_a_row(arrays)), arrays[0].shape)

    def gradient(self, kernel: Any, arrays: Arrays, cotangent: Array, *, summed: bool = False) -> tuple[Array, Array]:
        if not kernel.elementwise:
            return super().gradient(kernel, arrays, cotangent)
        cotangent, *arrays_ = _in_a_row((cotangent, *arrays))
        value, gradient = super().gradient(kernel, tuple(arrays_), cotangent)
        return jnp.reshape(value, arrays[0].shape), jnp.reshape(gradient, arrays[0].shape)


@jax.jit
def _folded(x: Array) -> Array:
    """A few numbers that have the sum of all."""
    return halved(jnp, jnp.reshape(x, (1, -1)), 4)


def _in_a_row(arrays: Arrays) -> Arrays:
    """(n, 1) as (1, n): XLA's CPU compiler makes vector code of the last axis alone."""
    return tuple(None if a is None else jnp.reshape(a, (1, a.shape[0])) for a in arrays)


library = Jax(jnp)
