"""How the formulas touch their arrays: traced ones only in the array API, eager ones in place too.

A kernel is written against a *mode*. `Traced` knows the array API standard alone: nothing is written to, and
nothing is looked at, so that it runs under a tracer, a tape, `vmap`, or a library that we have never heard of.
`Eager` does the same work on a block of plain arrays that nobody else sees: it writes to the temporaries, and,
on a CPU, looks at the numbers to skip work that they do not need.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Array = Any
Namespace = Any


class ComparedLabels:
    """One label a row of as many classes as `x` has, by a comparison with their numbers."""

    def __init__(self, mode: Traced, x: Array, labels: Array) -> None:
        self._mode = mode
        self._classes = x.shape[1]
        self._labels = labels
        self._known: Array | None = None

    @property
    def _hit(self) -> Array:
        # When it is asked for, and once: a tape runs what nothing uses as well.
        if self._known is None:
            positions = self._mode.positions(self._classes, self._labels)
            self._known = positions[None, :] == self._mode.xp.astype(self._labels, positions.dtype)
        return self._known

    def take(self, x: Array) -> Array:
        """The label's element of each row, (rows, 1)."""
        return self._mode.take(x, self._labels)

    def drop(self, e: Array) -> Array:
        """`e` with 0 at the label."""
        return self._mode.xp.where(self._hit, self._mode.xp.zeros_like(e), e)

    def spread(self, e: Array, others: Array, at_label: Array) -> Array:
        """`e * others`, with `at_label` at the label; `e` is what `drop` returned."""
        return self._mode.xp.where(self._hit, at_label, e * others)


class IndexedLabels:
    """One label a row, by integer indexing and in place: the arrays given are ours to write to."""

    def __init__(self, at: tuple[Array, ...]) -> None:
        self._at = at

    def take(self, x: Array) -> Array:
        return x[self._at][:, None]

    def drop(self, e: Array) -> Array:
        e[self._at] = 0
        return e

    def spread(self, e: Array, others: Array, at_label: Array) -> Array:
        e *= others
        return self.put(e, at_label)

    def put(self, e: Array, at_label: Array) -> Array:
        """`e` with `at_label` at the label."""
        e[self._at] = at_label[:, 0]
        return e


class Even:
    """Rows of exponentials, ours to write to, none of which outweighs the rest of its row: their sum says it all."""

    def __init__(self, mode: Eager, x: Array, e: Array, total: Array, log_total: Array) -> None:
        self._mode = mode
        self._x = x
        self._e = e
        self._total = total
        self._log_total = log_total

    def surprisal(self) -> Array:
        """-log p."""
        return self._log_total - self._x

    def log(self) -> Array:
        return self._mode.difference(self._x, self._log_total)

    def odds(self) -> tuple[Array, Array]:
        """p and 1 - p."""
        return self._e / self._total, (self._total - self._e) / self._total

    def pull(self, g: Array) -> Array:
        """g - p sum(g), over the exponentials."""
        mode = self._mode
        return mode.scaled(*mode.shares(self._e, self._total, -mode.sum(g)), g)

    def pull_label(self, labels: Any, g: Array) -> Array:
        """`pull` of what is `g` at the labels and 0 elsewhere."""
        return self._mode.pull_label(labels, self._e, self._total, self._total - labels.take(self._e), g)


class Peeled:
    """Rows of exponentials, ours to write to, in units of that of the maximum, and the sum of the rest.

    `rows` and `best` are the index of the rows where one class outweighs the rest, and of these classes.
    """

    def __init__(
        self, mode: Eager, x: Array, e: Array, top: Array, unit: Array, rest: Array, rows: Any, best: Any
    ) -> None:
        self._mode = mode
        self._x = x
        self._e = e
        self._top = top
        self._unit = unit
        self._rest = rest
        self._rows = rows
        self._best = best

    def surprisal(self) -> Array:
        h = self._top - self._x
        h += self._mode.xp.log1p(self._rest / self._unit)
        return h

    def log(self) -> Array:
        log_p = self._mode.difference(self._x, self._top)
        log_p -= self._mode.xp.log1p(self._rest / self._unit)
        return log_p

    def odds(self) -> tuple[Array, Array]:
        total = self._rest + self._unit
        return self._e / total, (self._rest + (self._unit - self._e)) / total

    def pull(self, g: Array) -> Array:
        mode = self._mode
        total, among = self._rest + self._unit, mode.sum(g)
        e = mode.scaled(*mode.shares(self._e, total, -among), g)
        if self._rows is not None:
            # Next to p = 1, the element's own part of the sum is -g (1 - p).
            own = g[self._best]
            rest, unit, whole = self._rest[self._rows], self._unit[self._rows], total[self._rows]
            e[self._best] = own * (rest / whole) - (unit / whole) * (among[self._rows] - own)
        return e

    def pull_label(self, labels: Any, g: Array) -> Array:
        """`pull` of what is `g` at the labels and 0 elsewhere."""
        others = self._rest + (self._unit - labels.take(self._e))
        return self._mode.pull_label(labels, self._e, self._rest + self._unit, others, g)


class Against:
    """The odds e = exp((1 - 2 y) x) against the answer y of the logit x, ours to write to once the surprisal is there.

    One exponential for both signs: log1p(e) is the surprisal, e / (1 + e) the chance of the other answer.
    """

    # Numbers from which it pays to multiply rather than to take all of the logarithms.
    _MANY = 1 << 12

    def __init__(self, mode: Eager, x: Array, answers: Array, e: Array) -> None:
        self._mode = mode
        self._x = x
        self._answers = answers
        self._e = e
        self._chance: Array | None = None
        self._total: Array | None = None

    @property
    def surprisal(self) -> Array:
        return self._mode.xp.log1p(self._e)

    def sum(self) -> Array | None:
        """The sum of the surprisals, (1, 1); None where odds are out of range."""
        xp, products = self._mode.xp, self._e
        odd = []
        for _ in range(2 if products.shape[0] > self._MANY else 0):
            half, rest = divmod(products.shape[0], 2)
            a, b = products[:half], products[half : 2 * half]
            if rest:
                odd.append(products[2 * half :])
            products = self._mode.joint(a, b)
        if odd:
            products = xp.concat([products, *odd])
        for some in (products, self._e):
            # Out of range of a product, or of an exponential, is out of range of the sum.
            total = self._mode.total(xp.log1p(some))
            if math.isfinite(total):
                return xp.reshape(total, (1, 1))
        return None

    def rest(self) -> Array:
        """The chance of the other answer, e / (1 + e), in place of `e`."""
        if self._total is None:
            self._total = self._e + self._mode.one
            self._e /= self._total
        return self._e

    def odds(self) -> tuple[Array, Array]:
        miss = self.rest()
        if self._chance is None:
            assert self._total is not None  # `rest` has made it
            self._chance = 1 / self._total
        return self._chance, miss

    def rarity(self) -> tuple[Array, Array]:
        """-log of the chance of the other answer, its larger part without an error."""
        xp = self._mode.xp
        above, below = self._mode.sides(self._mode.turned(self._x, self._answers))
        return below, xp.log1p(xp.exp(-(above + below)))

    def pull(self, g: Array) -> Array:
        """That of the log of the answer's chance, in place of the odds."""
        part = self._e
        if self._total is None:
            part = self._mode.part(part, -g)
        else:
            part *= -g
        return self._mode.turn(part, self._answers)


def halved(xp: Namespace, x: Array, most: int) -> Array:
    """`x` with the sum of its halves in their place, until there are no more than `most` numbers a row."""
    while (n := x.shape[1]) > most:
        half = n // 2
        pairs = x[:, :half, ...] + x[:, half : 2 * half, ...]
        x = xp.concat((pairs, x[:, 2 * half :, ...]), axis=1) if n % 2 else pairs
    return x


class Traced:
    """The array API alone; no value is looked at."""

    looks = False
    sums = False
    """Whether of a kernel's values only the sum is asked for: it may return others that have the same."""
    one: Any = 1
    """1, as the library adds it to an array soonest."""
    unit: float
    """What exponentials relative to the maximum are multiplied by, so that what adds up to a normal number is normal:
    compilers flush all else to 0."""

    def __init__(self, xp: Namespace, dtype: Any, wide: Any = None) -> None:
        self.xp = xp
        self.dtype = dtype
        self.wide = None if wide == dtype else wide
        smallest = xp.finfo(dtype).smallest_normal
        self.depth = math.floor(-math.log(smallest) / 4)
        self.unit = 2.0 ** math.floor(-math.log2(smallest) / 3)

    def into(self, *, value: Array | None = None, gradient: Array | None = None) -> Traced:
        """This mode, with the room that a kernel's value or gradient of full size may be written into."""
        return self

    def real(self, x: Array) -> Array:
        """`x` in the dtype that the formulas compute in."""
        return x if x.dtype == self.dtype else self.xp.astype(x, self.dtype)

    def precise(self, x: Array) -> Array:
        """`real`, or wider where that can be had."""
        return self.real(x) if self.wide is None else self.xp.astype(x, self.wide)

    def sum(self, x: Array) -> Array:
        """The sum of each row, (rows, 1)."""
        return self.xp.sum(x, axis=1, keepdims=True)

    def pairwise(self, x: Array) -> Array:
        """`sum`, of terms of any size: small ones, added one after another, would be lost in a large one's rounding."""
        return self.sum(x)

    def alone(self, labels: Any, x: Array, at_label: Array) -> Array:
        """`at_label` at the labels, and 0 elsewhere, of the shape of `x`."""
        e: Array = labels.spread(self.xp.zeros_like(x), self.xp.ones_like(at_label), at_label)
        return e

    def arange(self, n: int, like: Array) -> Array:
        """0 .. n - 1 with the dtype and on the device of `like`."""
        return self.xp.arange(n, dtype=like.dtype, device=like.device)

    def excess(self, u: Array) -> Array:
        """u + expm1(-u), u from -2 up: how far exp(-u) is above its tangent; a series where the two cancel."""
        xp = self.xp
        eps = float(xp.finfo(u.dtype).eps)
        last, term = 2, 1.0
        while term > eps / 8:
            last += 1
            term *= 2 / last
        small = u <= 1
        v = xp.where(small, u, xp.zeros_like(u))
        series = xp.ones_like(v)
        for k in range(last, 2, -1):
            series = 1 - v * series * (1 / k)
        return xp.where(small, v * v * series / 2, (u - 1) + xp.exp(-u))

    def expm1(self, x: Array) -> Array:
        """exp(x) - 1, x up to 1."""
        # XLA's is 5 ULP off in float32 (jaxlib 0.10.2), and torch.compile's, on a CPU, exp(x) - 1 (pytorch issue
        # 189803), without a digit for small x.
        xp = self.xp
        near = x >= -1
        v = xp.where(near, x, xp.zeros_like(x))
        return xp.where(near, v + self.excess(-v), xp.exp(x) - 1)

    def take(self, x: Array, labels: Array) -> Array:
        return self.xp.take_along_axis(x, labels, axis=1)

    def labels(self, x: Array, labels: Array) -> Any:
        return ComparedLabels(self, x, labels)

    def positions(self, classes: int, labels: Array) -> Array:
        """The numbers of the classes, in the dtype that labels are compared in."""
        return self.arange(classes, labels)

    # -----------------------------------------------------------------------------------------------------------
    # Rows of exponentials

    def exp(self, x: Array, near: float) -> Array:
        """exp(x), to the last bit where `near` is 0."""
        return self.xp.exp(x)

    def unscaled(self, x: Array, labels: Any, near: float) -> tuple[Array, Array, Array, Array] | None:
        """The exponentials of the logits as they are: but for the label's, the sum of these, the label's, and of all.

        None where that might be out of range, or can't be known.
        """
        return None

    def rows(self, x: Array, near: float) -> Even | Peeled | None:
        """The exponentials of plain rows; None where these have infinite maxima, or can't be looked at."""
        return None

    def bounded(self, top: Array) -> bool:
        """Whether the row maxima are known to be below +inf."""
        return False

    def at_most(self, x: Array) -> Array:
        """`x` with the largest finite number for +inf."""
        return self.xp.minimum(x, self.xp.full_like(x[:, :1], self.xp.finfo(x.dtype).max))

    def exp_below(self, x: Array, d: Array, top: Array, near: float, base: Array | None = None) -> Array:
        """exp(x - base), or exp(x - top) `unit` without a base; `d` is x - top as rounded, and so is x - base.

        That rounding, which exp magnifies by its size, is made good. The error of the difference is exact, and
        exp(d + error) is exp(d) (1 + error): as a product, since `e + e * error` flushes to zero on XLA for small e.
        Where no d is beyond -`near`, the caller can do without.
        """
        xp = self.xp
        # +inf, alone above `top`, has a scale of its own.
        x = xp.where(x > top, top, x)
        if not near and self.wide is not None and x.dtype == self.dtype:
            wide = xp.astype(x, self.wide) - xp.astype(top if base is None else base, self.wide)
            return xp.astype(xp.exp(wide) * (self.unit if base is None else 1.0), self.dtype)
        if base is not None:
            # Fast2Sum (Dekker 1971), which asks for |base| >= |x|; or else that d + base has no error. If |base| < |x|
            # it has none: both are multiples of the spacing of d, as the base is whole, and the sum is at most 2^24 of
            # it.
            d = x - base
            error = x - (d + base)
            return xp.exp(d) * (1 + self.finite(error, d))
        # 2Sum (Knuth, TAOCP 2, section 4.2.2).
        d = x - top
        back = d - x
        error = (x - (d - back)) - (top + back)
        if self.unit == 1:
            return xp.exp(d) * (1 + self.finite(error, d))
        # The unit comes in after the exponential near the top, so that ties have it exactly, and before it, all but a
        # rest, further down, where the exponential alone would be no normal number.
        whole = math.floor(math.log(self.unit))
        far = d < -whole - 1
        raised = xp.where(far, d + whole, d)
        error = self.finite(xp.where(far, error + (whole - (raised - d)), error), d)
        one = xp.ones_like(d)
        return xp.exp(raised) * (1 + error) * xp.where(far, one * (self.unit / math.exp(whole)), one * self.unit)

    def finite(self, error: Array, d: Array) -> Array:
        """The error of a difference `d`, or 0 where that is infinite, as is its error, but its exponential 0."""
        return self.xp.where(d >= -self.xp.finfo(self.dtype).max, error, self.xp.zeros_like(error))

    def highest(self, x: Array) -> Array:
        """The maximum of each row, (rows, 1), or a number in its place that is infinite, or nan, where it is."""
        return self.xp.max(x, axis=1, keepdims=True)

    def base(self, highest: Array) -> Array | None:
        """A whole number below `highest`, so that exponentials relative to it are normal: compilers flush others to 0.

        A quarter of the exponents there are is enough for that, and leaves their squares, which second derivatives
        divide by, in range. None where no compiler is: the maximum itself.
        """
        return self.xp.floor(self.at_most(highest)) - self.depth

    def log_ratio(
        self, others: Array, e: Array, x: Array, base: Array, more: Array, coefficient: Array | None
    ) -> Array:
        """log((others + e) / e) + more, of sums relative to `base` and `e = exp(x - base)`.

        It is finite where the coefficient is 0.
        """
        xp = self.xp
        # From where `e` may be too small to divide by, the distance is all but all of it; one logarithm does for both.
        near = x - base > -2 * self.depth
        ratio = xp.where(near, others / xp.where(near, e, xp.ones_like(e)), others - 1)
        more = more - xp.where(near, xp.zeros_like(x), x - base)
        if coefficient is not None:
            # Here, as XLA's CPU compiler makes no vector code of a logarithm that is selected, or not, afterwards.
            nothing = (coefficient == 0) & ~xp.isfinite(ratio + more)
            ratio, more = (xp.where(nothing, xp.zeros_like(a), a) for a in (ratio, more))
        return xp.log1p(ratio) + more

    def of_rows(self, f: Callable[..., tuple[Array, ...]], *columns: Array | None) -> tuple[Array, ...]:
        """`f` of numbers of the rows, (rows, 1), each on its own."""
        return f(*columns)

    def peel(self, d: Array, e: Array) -> Array:
        """The sum of each row of `e = exp(d) unit` but for one maximum (d = 0), and with its derivative.

        The maxima are subtracted rather than left out, so that plain autodiff sees their derivative as well.
        """
        xp = self.xp
        total = self.sum(e)
        rest = self.sum(xp.where(d < 0, e, e - self.unit))
        # Two units or more, and no digit is lost in taking off one of them.
        return xp.where(total - rest > 1.5 * self.unit, total - self.unit, rest)

    def shares(self, e: Array, total: Array, factor: Array) -> tuple[Array, Array]:
        """Two factors of `e factor / total`, the second (rows, 1), of which none is less than it has to be."""
        xp = self.xp
        one = xp.ones_like(total)
        large = xp.abs(factor) > 1
        return e * (xp.where(large, factor, one) / total), xp.where(large, one, factor)

    def pull_label(self, labels: Any, e: Array, total: Array, others: Array, g: Array) -> Array:
        """g ([the label] - e / total), of which `others` is what the total has beside the label's."""
        made: Array = labels.spread(*self.shares(e, total, -g), g * (others / total))
        return made

    # -----------------------------------------------------------------------------------------------------------
    # Numbers on their own

    def against(self, x: Array, answers: Array, near: float, *, known: bool = True) -> Against | None:
        """The odds against the answers; None where they are out of range, if that is to be `known`, or can't be.

        Nor would they do for a tape: the derivative of e / (1 + e) by its parts is a difference of numbers near 1.
        """
        return None

    def sides(self, x: Array) -> tuple[Array, Array]:
        """max(x, 0) and max(-x, 0); at 0 their derivatives are 1 and 0, so that sigmoid'' comes out right."""
        xp = self.xp
        positive, zero = x >= 0, xp.zeros_like(x)
        return xp.where(positive, x, zero), xp.where(positive, zero, -x)

    def under(self, x: Array, above: Array, below: Array) -> Array:
        """-|x|, with the derivative of its sides."""
        # Of x alone: XLA's CPU compiler would store the sides.
        return self.xp.where(x >= 0, -x, x)

    def raised(self, x: Array, e: Array) -> tuple[Array, Array]:
        """exp(min(x, 0)) and exp(min(-x, 0)), of `e = exp(-|x|)`."""
        xp = self.xp
        positive, one = x >= 0, xp.ones_like(x)
        return xp.where(positive, one, e), xp.where(positive, e, one)

    def log_complement(self, p: Array) -> Array:
        """log(1 - p)."""
        return self.xp.log1p(-p)

    def power(self, x: Array, exponent: float) -> Array:
        """x^exponent, 0 at 0."""
        if exponent == 2:
            return x * x
        # 0 apart: the derivative there is infinite for exponents < 1, and 0 * inf would reach second derivatives.
        xp = self.xp
        some = x > 0
        return xp.where(x == 0, xp.zeros_like(x), xp.where(some, x, xp.ones_like(x)) ** exponent)

    def decay(self, rate: float, whole: Array, part: Array) -> Array:
        """exp(-rate (whole + part)), where `whole` has no error: the product's rounding is not magnified."""
        xp = self.xp
        # Few bits of both, whose product is exact; what is left is small.
        whole = xp.minimum(whole, xp.full_like(whole, 1e4))  # 0 from there on, and no inf - inf
        coarse = xp.floor(whole * 64) / 64
        few = math.floor(rate * 256) / 256
        lesser = rate * ((whole - coarse) + part)
        if rate != few:
            lesser = lesser + (rate - few) * coarse
        most = few * coarse
        exponent = most + lesser
        # Not exp(-most) exp(-lesser), which XLA makes one exponential of.
        return xp.exp(-exponent) * (1 - (lesser - (exponent - most)))

    def ratio(self, a: Array, b: Array) -> Array:
        """a / b, or a where b is 0."""
        xp = self.xp
        return a / xp.where(b > 0, b, xp.ones_like(b))

    def times(self, weight: Array, x: Array) -> Array:
        """`weight * x` where nothing costs nothing: 0 * inf = 0 * nan = 0; differentiable in both."""
        xp = self.xp
        return weight * xp.where((weight == 0) & ~xp.isfinite(x), xp.zeros_like(x), x)

    def blend(self, weight: Array, x: Array, other: Array, y: Array) -> Array:
        """weight * x + other * y, by the rule of `times`."""
        return self.times(weight, x) + self.times(other, y)

    def still(self, cotangent: Array, gradient: Array) -> Array:
        """`gradient`, exactly zero in the rows whose cotangent is."""
        xp = self.xp
        return xp.where(cotangent == 0, xp.zeros_like(gradient), gradient)


class Eager(Traced):
    """Plain arrays: temporaries are written to; where `looks`, numbers may decide (a CPU, no device to wait for).

    Rows may also come as (outer, classes, inner), as they lie in memory: then a number for each is (outer, 1, inner).

    `rough` says that the library's float32 exponential is off by more than one unit in the last place.
    """

    # The classes up to which the errors of two rough exponentials show in a share of their sum: where more take part,
    # what is allowed for the distance between a class and one that dominates so many is more than that.
    _FEW = 32
    # The numbers of which a temporary stays in a cache. (A large one is given back to the system, and takes longer to
    # have again than to use.)
    _CACHED = 1 << 19

    def __init__(self, xp: Namespace, dtype: Any, *, looks: bool, rough: bool = False) -> None:
        super().__init__(xp, dtype, xp.float64 if looks else None)
        self.looks = looks
        self.unit = 1.0
        self._rough = rough and self.wide is not None
        # Ratios of numbers from 1 / largest to largest are in range as well.
        self._largest = float(xp.finfo(dtype).max) ** 0.5 / 4
        self._value: Array | None = None
        self._gradient: Array | None = None

    def into(self, *, value: Array | None = None, gradient: Array | None = None) -> Eager:
        # A gradient is what becomes of the exponentials: these are written to its room, once.
        if value is None and gradient is None:
            return self
        mode = self._copy()
        mode._value, mode._gradient = value, gradient
        return mode

    def summing(self) -> Eager:
        """This mode, for a kernel of whose values only the sum is asked for."""
        mode = self._copy()
        mode.sums = True
        return mode

    def _copy(self) -> Eager:
        # A tenth of the time of copy.copy, which is 8 us.
        mode = object.__new__(type(self))
        mode.__dict__.update(self.__dict__)
        return mode

    def total(self, x: Array) -> Array:
        """The sum of all of `x`, in float64 where there is one."""
        return self.xp.sum(x, dtype=self.wide or self.dtype)

    def least(self, x: Array) -> float:
        """The smallest element, or nan; there is one."""
        return float(self.xp.min(x))

    def most(self, x: Array) -> float:
        """The largest element, or nan; there is one."""
        return float(self.xp.max(x))

    def span(self, x: Array) -> tuple[float, float]:
        """The smallest and the largest element, or nan; there is one."""
        return self.least(x), self.most(x)

    def pairwise(self, x: Array) -> Array:
        return self.sum(halved(self.xp, x, self._FEW))

    def labels(self, x: Array, labels: Array) -> Any:
        return IndexedLabels(self._at(x, labels[:, 0]))

    def _at(self, x: Array, classes: Array) -> tuple[Array, ...]:
        """The index of one class of each row."""
        outer = self.arange(x.shape[0], classes)
        return (outer, classes) if x.ndim == 2 else (outer[:, None], classes, self.arange(x.shape[2], classes))

    def alone(self, labels: Any, x: Array, at_label: Array) -> Array:
        room = self._room(x)
        if room is None:
            room = self.xp.empty_like(x)
        room[...] = 0
        return labels.put(room, at_label)

    def scaled(self, e: Array, factor: Array, g: Array) -> Array:
        """e factor + g, in place of `e`."""
        e = self.multiply(e, factor)
        e += g
        return e

    def difference(self, x: Array, top: Array) -> Array:
        """x - top, ours to write to: in the room for the value, if there is one."""
        room, self._value = self._value, None
        return self.subtract(x, top, None if room is None or room.dtype != x.dtype else room)

    # Of rows, and one number for each.

    def subtract(self, x: Array, column: Array, room: Array | None) -> Array:
        """x - column, in the room if there is one."""
        return x - column if room is None else self.xp.subtract(x, column, out=room)

    def multiply(self, e: Array, column: Array) -> Array:
        """e column, in place of `e`."""
        e *= column
        return e

    def exp(self, x: Array, near: float) -> Array:
        xp = self.xp
        if self._rough and not near and x.dtype == self.dtype:
            return xp.astype(xp.exp(xp.astype(x, self.wide)), self.dtype)
        return self._exp(x)

    def _exp(self, x: Array) -> Array:
        room = self._room(x)
        return self.xp.exp(x) if room is None else self.xp.exp(x, out=room)

    def _room(self, x: Array) -> Array | None:
        """The room for the gradient, once, where it is like `x`."""
        room = self._gradient
        if room is None or room.dtype != x.dtype or room.shape != x.shape:
            return None
        self._gradient = None
        return room

    def unscaled(self, x: Array, labels: Any, near: float) -> tuple[Array, Array, Array, Array] | None:
        # Nothing is subtracted, so there is no rounding to make good; and no maximum is needed.
        if not self.looks or 0 in x.shape:
            return None
        room = self._gradient
        e = self.exp(x, near if x.shape[1] > self._FEW else 0.0)
        at_label = labels.take(e)
        dropped = labels.drop(e)
        others = self.sum(dropped)
        total = others + at_label
        if self._in_range(total, at_label):
            return dropped, others, at_label, total
        self._gradient = room
        return None

    def rows(self, x: Array, near: float) -> Even | Peeled | None:
        if not self.looks or 0 in x.shape:
            return None
        room = self._gradient
        # Where few take part, their own errors show.
        exact = 0.0 if x.shape[1] <= self._FEW else near
        e, top = self.exp(x, exact), self.xp.max(x, axis=1, keepdims=True)
        parts = self._rows(x, e, top, near, scaled=False)
        if parts is None:
            self._gradient = room
            lowest, highest = self.span(top)
            if lowest > -float("inf") and highest < float("inf"):
                parts = self._rows(x, self.exp_below(x, x - top, top, exact), top, near, scaled=True)
        return parts

    def _rows(self, x: Array, e: Array, top: Array, near: float, *, scaled: bool) -> Even | Peeled | None:
        """Of exponentials as they are, if in range, or `scaled`, relative to the maxima `top`."""
        xp = self.xp
        rows: Any = None
        best: Any = None
        if x.shape[1] <= self._FEW:
            # One will outweigh the rest in many rows: it is left out of the sum in all.
            rows, best = (slice(None), 0), self._at(x, xp.argmax(x, axis=1))
            unit = e[best][:, None]
            e[best] = 0
            rest = self.sum(e)
            e[best] = unit[:, 0]
            total = rest + unit
        else:
            total = self.sum(e)
            log_total = self._log_even(total, top) if near and not scaled else None
            if log_total is not None:
                return Even(self, x, e, total, log_total)
            # Where none does, the difference of the sum and the largest has all but a bit of the digits.
            unit = xp.ones_like(top) if scaled else self.exp(top, near)
            rest = total - unit
            outweighed = rest < unit
            if bool(xp.any(outweighed)):
                outer, *inner = xp.nonzero(outweighed[:, 0])
                largest = xp.argmax(x[outer, :, *inner], axis=1)
                others = e[outer, :, *inner]
                others[self.arange(largest.shape[0], largest), largest] = 0
                rows, best = (outer, 0, *inner), (outer, largest, *inner)
                rest[rows] = self.sum(others)[:, 0]
        in_range = scaled or self._in_range(total, unit)
        return Peeled(self, x, e, top, unit, rest, rows, best) if in_range else None

    def _log_even(self, total: Array, top: Array) -> Array | None:
        """log(total), if no class outweighs the rest of any row, and it is all that -log p takes.

        No -log p is less than a fourth of it then, so that half a unit in its last place is no more than two in theirs.
        """
        lowest, highest = self.span(total)
        # A nan is none of these.
        if not (lowest >= 0.25 and highest <= self._largest):
            return None
        log_total = self.real(self.xp.log(self.precise(total)))
        nearest = log_total - top
        if not (self.least(nearest) >= math.log(2) and self.least(nearest - self.xp.abs(log_total) / 4) >= 0):
            return None
        return log_total

    def _in_range(self, total: Array, least: Array) -> bool:
        """Whether no sum is so small that a term that is no normal number could matter, nor anything too large."""
        # A look takes as long as an operation, so each on its own; a nan is none of these.
        lowest, highest = self.span(total)
        return lowest >= 0.25 and highest <= self._largest and self._largest * self.least(least) >= 1

    def bounded(self, top: Array) -> bool:
        return self.looks and 0 not in top.shape and self.most(top) < float("inf")

    def exp_below(self, x: Array, d: Array, top: Array, near: float, base: Array | None = None) -> Array:
        xp = self.xp
        if not self.looks or 0 in d.shape:
            return super().exp_below(x, d, top, near)
        furthest = self.least(d)
        if furthest > -near or x.dtype != self.dtype:
            return self._exp(d)
        # +inf stands above `top` where that is the largest number there is; a nan is not below it either.
        below = self.most(top) < float(xp.finfo(self.dtype).max)
        if not (below and (furthest > -float("inf") or self.wide is not None)):
            return super().exp_below(x, d, top, near)
        if self.wide is not None:
            # 2.4 times the plain exponential; the corrections below take 5 times it, and leave in the exponential's
            # own error, 2.4 ULP on NumPy.
            room = self._room(x)
            e = xp.empty_like(x) if room is None else room
            rows = max(1, self._CACHED // math.prod(x.shape[1:]))
            for i in range(0, x.shape[0], rows):
                wide = xp.astype(x[i : i + rows], self.wide)
                wide -= top[i : i + rows]
                e[i : i + rows] = xp.exp(wide, out=wide)
            return e
        e = xp.exp(d)
        back = d - x
        error = d - back
        error -= x
        back += top
        error += back
        error *= e
        e -= error
        return e

    def base(self, highest: Array) -> None:
        return None

    def expm1(self, x: Array) -> Array:
        return self.xp.expm1(x)

    def peel(self, d: Array, e: Array) -> Array:
        at = self._at(d, self.xp.argmax(d, axis=1))
        e[at] = 0
        rest = self.sum(e)
        e[at] = 1
        return rest

    def shares(self, e: Array, total: Array, factor: Array) -> tuple[Array, Array]:
        xp = self.xp
        share = factor / total
        if self.looks and 0 not in share.shape and self.least(xp.abs(share)) > 1e-20:
            return e, share
        e *= 1 / total
        return e, factor

    def part(self, e: Array, g: Array) -> Array:
        """e / (1 + e) g, in place of e."""
        for i in range(0, e.shape[0], self._CACHED):
            some = e[i : i + self._CACHED]
            some /= some + 1
        e *= g
        return e

    def joint(self, a: Array, b: Array) -> Array:
        """(1 + a) (1 + b) - 1, of positive terms."""
        c = a * b
        c += a
        c += b
        return c

    def turned(self, x: Array, answers: Array, room: Array | None = None) -> Array:
        """`x` times 1 - 2 answers, in the room if there is one; what is infinite may become nan."""
        # All but the first in place.
        turned = 0.5 - answers if room is None else self.xp.subtract(0.5, answers, out=room)
        turned *= x
        turned += turned
        return turned

    def turn(self, x: Array, answers: Array) -> Array:
        """`turned`, in place of `x`."""
        sign = answers * -2
        sign += 1
        x *= sign
        return x

    def against(self, x: Array, answers: Array, near: float, *, known: bool = True) -> Against | None:
        if not self.looks:
            return None
        if answers.dtype != x.dtype:
            answers = self.xp.astype(answers, x.dtype)
        e = self.turned(x, answers, self._room(x))
        e = self.exp(e, near) if self._rough and not near else self.xp.exp(e, out=e)
        # A nan is not below, either.
        if known and not (0 in e.shape or self.most(e) < float("inf")):
            return None
        return Against(self, x, answers, e)

    # Selections by a condition are slow where the branch can't be foretold (1.6 ns an element on NumPy, 2 on torch,
    # against 0.05 for a product), so there are none here.

    def sides(self, x: Array) -> tuple[Array, Array]:
        zero = self.xp.zeros_like(x)
        return self.xp.maximum(x, zero), self.xp.maximum(-x, zero)

    def under(self, x: Array, above: Array, below: Array) -> Array:
        return -(above + below)

    def raised(self, x: Array, e: Array) -> tuple[Array, Array]:
        sign = self.xp.sign(x)
        return self.xp.maximum(e, sign), self.xp.maximum(e, -sign)

    def power(self, x: Array, exponent: float) -> Array:
        y: Array = x * x if exponent == 2 else x**exponent
        return y

    def ratio(self, a: Array, b: Array) -> Array:
        if not self.looks or 0 in b.shape or not self.least(b) > 0:
            return super().ratio(a, b)
        return a / b

    def times(self, weight: Array, x: Array) -> Array:
        if not self.looks:
            return super().times(weight, x)
        product = weight * x
        if math.prod(weight.shape) == 1 and bool(weight):
            return product
        # A maximum is nan where anything is.
        if 0 in product.shape or not math.isnan(self.most(product)):
            return product
        return super().times(weight, x)

    def blend(self, weight: Array, x: Array, other: Array, y: Array) -> Array:
        if not self.looks:
            return super().blend(weight, x, other, y)
        both = weight * x
        both += other * y
        if 0 in both.shape or not math.isnan(self.most(both)):
            return both
        return super().blend(weight, x, other, y)

    def still(self, cotangent: Array, gradient: Array) -> Array:
        if self.looks and math.prod(cotangent.shape) == 1 and bool(cotangent):
            return gradient
        if self.looks and 0 not in cotangent.shape and self.least(self.xp.abs(cotangent)) > 0:
            return gradient
        return super().still(cotangent, gradient)
