"""How the formulas touch their arrays: traced ones only in the array API, eager ones in place too.

A kernel is written against a *mode*. `Traced` knows the array API standard alone: nothing is written to, and
nothing is looked at, so that it runs under a tracer, a tape, `vmap`, or a library that we have never heard of.
`Eager` does the same work on a block of plain arrays that nobody else sees: it writes to the temporaries, and,
on a CPU, looks at the numbers to skip work that they do not need.
"""

from __future__ import annotations

import math
from typing import Any

Array = Any
Namespace = Any


class MaskedLabels:
    """One label a row, as a mask: 0 at the label and 1 elsewhere.

    The mask is arithmetic (`e * mask`, not `where`): XLA's CPU compiler turns a selection inside a reduction into
    a scalar loop, 3 to 4 times slower than the product at 2048 x 32000.
    """

    def __init__(self, mode: Traced, classes: int, labels: Array) -> None:
        self._mode = mode
        self._labels = labels
        xp = mode.xp
        if classes <= 2 / xp.finfo(mode.dtype).eps:
            # In floating point as long as it counts that far: XLA's CPU compiler takes 3 times as long for integers.
            labels = xp.astype(labels, mode.dtype)
        distance = mode.real(xp.abs(mode.arange(classes, labels)[None, :] - labels))
        self._others = xp.minimum(distance, xp.ones_like(distance[:, :1]))

    def take(self, x: Array) -> Array:
        """The label's element of each row, (rows, 1)."""
        return self._mode.take(x, self._labels)

    def drop(self, e: Array) -> Array:
        """`e` with 0 at the label."""
        return e * self._others

    def spread(self, e: Array, others: Array, at_label: Array) -> Array:
        """`e * others`, with `at_label` at the label; `e` is what `drop` returned."""
        return e * self._others * others + (1 - self._others) * at_label


class IndexedLabels:
    """One label a row, by integer indexing and in place: the arrays given are ours to write to."""

    def __init__(self, rows: Array, labels: Array) -> None:
        self._rows = rows
        self._labels = labels[:, 0]

    def take(self, x: Array) -> Array:
        return x[self._rows, self._labels][:, None]

    def drop(self, e: Array) -> Array:
        e[self._rows, self._labels] = 0
        return e

    def spread(self, e: Array, others: Array, at_label: Array) -> Array:
        e *= others
        e[self._rows, self._labels] = at_label[:, 0]
        return e


class Traced:
    """The array API alone; no value is looked at."""

    looks = False

    def __init__(self, xp: Namespace, dtype: Any, wide: Any = None) -> None:
        self.xp = xp
        self.dtype = dtype
        # For exponentials that have to be right to the last bit: NumPy's are off by up to 2.4 ULP in float32.
        self.wide = None if wide == dtype else wide

    def real(self, x: Array) -> Array:
        """`x` in the dtype that the formulas compute in."""
        return x if x.dtype == self.dtype else self.xp.astype(x, self.dtype)

    def arange(self, n: int, like: Array) -> Array:
        """0 .. n - 1 with the dtype and on the device of `like`."""
        return self.xp.arange(n, dtype=like.dtype, device=like.device)

    def take(self, x: Array, labels: Array) -> Array:
        return self.xp.take_along_axis(x, labels, axis=1)

    def labels(self, x: Array, labels: Array) -> Any:
        return MaskedLabels(self, x.shape[1], labels)

    def bounded(self, top: Array) -> bool:
        """Whether the row maxima are known to be below +inf."""
        return False

    def at_most(self, x: Array) -> Array:
        """`x` with the largest finite number for +inf."""
        return self.xp.minimum(x, self.xp.full_like(x[:, :1], self.xp.finfo(x.dtype).max))

    def exp(self, x: Array, d: Array, top: Array, near: float, base: Array | None = None) -> Array:
        """exp(x - base), where `d` is x - top as rounded: the rounding, which exp magnifies by its size, is made good.

        The error of the difference is exact (2Sum: Knuth, TAOCP 2, section 4.2.2), and exp(d + error) is
        exp(d) (1 + error): as a product, since `e + e * error` flushes to zero on XLA for small e. Where no d is
        beyond -`near`, the caller can do without.
        """
        xp = self.xp
        base = top if base is None else base
        # No infinity on the way, but far enough down for exp to be 0: a row with a +inf has its own scale. Nothing is
        # clipped to a constant, which XLA's CPU compiler takes 5 times as long for.
        x = xp.minimum(xp.maximum(x, top - xp.maximum(xp.abs(top) / 2, xp.full_like(top, 1000.0))), top)
        if not near and self.wide is not None:
            return xp.astype(xp.exp(xp.astype(x, self.wide) - xp.astype(base, self.wide)), self.dtype)
        d = x - base
        back = d - x
        return xp.exp(d) * (1 + ((x - (d - back)) - (base + back)))

    def base(self, top: Array) -> Array:
        """Below `top`, so that exponentials relative to it are normal numbers: compilers flush others to 0.

        A quarter of the exponents there are is enough for that, and leaves their squares, which second derivatives
        divide by, in range.
        """
        return top + math.log(self.xp.finfo(self.dtype).smallest_normal) / 4

    def precise(self, x: Array, near: float) -> Array:
        """`real`, or wider where every rounding is magnified."""
        return self.real(x) if near or self.wide is None else self.xp.astype(x, self.wide)

    def log_complement(self, p: Array) -> Array:
        """log(1 - p)."""
        return self.xp.log1p(-p)

    def times(self, weight: Array, x: Array) -> Array:
        """`weight * x` where nothing costs nothing: 0 * inf = 0 * nan = 0; differentiable in both."""
        xp = self.xp
        return weight * xp.where((weight == 0) & ~xp.isfinite(x), xp.zeros_like(x), x)

    def still(self, cotangent: Array, gradient: Array) -> Array:
        """`gradient`, exactly zero in the rows whose cotangent is."""
        xp = self.xp
        return xp.where(cotangent == 0, xp.zeros_like(gradient), gradient)

    def peel(self, d: Array, e: Array) -> Array:
        """The sum of each row of `e = exp(d)` but for one maximum (d = 0), and with its derivative.

        The maxima are subtracted rather than left out, so that plain autodiff sees their derivative as well, and
        found with arithmetic rather than a comparison (see `MaskedLabels`); `floor` has derivative 0.
        """
        xp = self.xp
        near = 0.5 / xp.finfo(self.dtype).smallest_normal
        below = xp.floor(xp.abs(d) * near)
        tops = 1 - xp.minimum(below, xp.ones_like(below[:, :1]))
        return xp.sum(e - tops, axis=1, keepdims=True) + (xp.sum(tops, axis=1, keepdims=True) - 1)

    def magnitude(self, x: Array) -> Array:
        """|x|, with derivative 1 at 0: exp(-|x|) must take one side there, for sigmoid'' to come out right."""
        return self.xp.where(x >= 0, x, -x)


class Eager(Traced):
    """Plain arrays: temporaries are written to; where `looks`, numbers may decide (a CPU, no device to wait for)."""

    def __init__(self, xp: Namespace, dtype: Any, *, looks: bool) -> None:
        super().__init__(xp, dtype, xp.float64 if looks else None)
        self.looks = looks

    def labels(self, x: Array, labels: Array) -> Any:
        return IndexedLabels(self.arange(x.shape[0], labels), labels)

    def bounded(self, top: Array) -> bool:
        return self.looks and 0 not in top.shape and bool(self.xp.max(top) < float("inf"))

    def exp(self, x: Array, d: Array, top: Array, near: float, base: Array | None = None) -> Array:
        xp = self.xp
        if not self.looks or 0 in d.shape:
            return super().exp(x, d, top, near)
        furthest = float(xp.min(d))
        if furthest > -near:
            return xp.exp(d)
        if not furthest > -float("inf"):
            return super().exp(x, d, top, near)
        if self.wide is not None:
            # 2.4 times the plain exponential; the corrections below take 5 times it, and leave in the exponential's
            # own error, 2.4 ULP on NumPy.
            wide = xp.astype(x, self.wide)
            wide -= top
            return xp.astype(xp.exp(wide), self.dtype)
        e = xp.exp(d)
        back = d - x
        error = d - back
        error -= x
        back += top
        error += back
        error *= e
        e -= error
        return e

    def base(self, top: Array) -> Array:
        return top

    def times(self, weight: Array, x: Array) -> Array:
        if not self.looks:
            return super().times(weight, x)
        product = weight * x
        # One sum finds a nan anywhere: the products of a loss have one sign, so that no inf - inf makes one.
        if not bool(self.xp.isnan(self.xp.sum(product))):
            return product
        return super().times(weight, x)

    def still(self, cotangent: Array, gradient: Array) -> Array:
        if self.looks and not bool(self.xp.any(cotangent == 0)):
            return gradient
        return super().still(cotangent, gradient)

    def peel(self, d: Array, e: Array) -> Array:
        best = self.xp.argmax(d, axis=1)
        rows = self.arange(d.shape[0], best)
        e[rows, best] = 0
        rest = self.xp.sum(e, axis=1, keepdims=True)
        e[rows, best] = 1
        return rest

    def magnitude(self, x: Array) -> Array:
        return self.xp.abs(x)
