"""How a formula touches its arrays: the interface of a kernel, and the operations that a library may do its own way.

`Ops` does them with the array API standard alone, and never writes to an array or looks at a number: so a kernel runs
under a tracer, on a tape, under `vmap`, and on a library that we have never heard of. A backend that owns its temporary
arrays overrides some of them to work in place or by index. What an override may not do is change the formula.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

Array = Any
Namespace = Any
Vjp = Callable[[Array], Array]


class Forward(NamedTuple):
    """What a kernel returns.

    Attributes
    ----------
    value
        The result: one number for each sample, or one for each logit (`Kernel.keeps_classes`).
    vjps
        For each input: a function from the cotangent of the value to the cotangent of the input, or None if the input
        has no derivative. Where operations write in place, the first one, for the logits, may overwrite arrays that the
        others read. There it is called last, or alone.
    jvp
        A function from a tangent of the logits to the tangent of the value; only if the value has several numbers in a
        row.
    """

    value: Array
    vjps: tuple[Vjp | None, ...]
    jvp: Callable[[Array], Array] | None = None


class Complete:
    """A base class whose subclasses are refused, where they are defined, if they lack one of its abstract methods."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        missing = [name for name in dir(cls) if getattr(getattr(cls, name), "__isabstractmethod__", False)]
        if missing and Complete not in cls.__bases__:
            raise TypeError(f"the {cls.__bases__[0].__name__} {cls.__name__} lacks {' and '.join(missing)}")


class Kernel(Complete):
    """A formula: the value and the derivatives of one function. A frozen dataclass, as compilers cache by its hash.

    `forward` takes the logits and the other inputs. For a loss, the first of these is the weight of each sample, or
    None. All inputs have one floating-point dtype, except for integer labels. Inputs with one number for each sample
    have length 1 along the class axis.

    Attributes
    ----------
    keeps_classes
        Whether the value has the shape of the logits.
    elementwise
        Whether it works element by element, without a class axis.
    """

    keeps_classes: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False

    @abstractmethod
    def forward(self, ops: Ops, x: Array, /, *inputs: Any) -> Forward: ...


class Position(Protocol):
    """One class of each row: the label, or a maximum; if it is found by comparison, all equal maxima."""

    def take(self, x: Array) -> Array:
        """`x` at this position, with length 1 along the class axis; for maxima found by comparison, `x` itself."""

    def put(self, x: Array, value: Array | float) -> Array:
        """`x` with `value` at this position; it may overwrite `x`."""


class Compared:
    """Where a comparison holds: the maximum of each row, all of them where several are equal."""

    def __init__(self, ops: Ops, hit: Array) -> None:
        self.ops, self.hit = ops, hit

    def take(self, x: Array) -> Array:
        return x

    def put(self, x: Array, value: Array | float) -> Array:
        return self.ops.xp.where(self.hit, self.ops.like(value, x), x)


class ComparedLabel(Compared):
    """The label of each row, found by comparison."""

    def take(self, x: Array) -> Array:
        # Not take_along_axis, which the standard has only since 2024. `where`, so that inf and nan of others stay out.
        return self.ops.sum(self.ops.xp.where(self.hit, x, self.ops.xp.zeros_like(x)))


def placed(x: Array) -> dict[str, Any]:
    """The keyword that puts a new array where `x` is; none for a library whose arrays have no device (MLX)."""
    device = getattr(x, "device", None)
    return {} if device is None else {"device": device}


class Ops:
    """The operations, on arrays of one dtype with the classes along `axis`; sums and maxima keep that axis."""

    def __init__(self, xp: Namespace, dtype: Any, axis: int | None) -> None:
        self.xp = xp
        self.dtype = dtype
        self.axis: Any = axis
        self.largest = float(xp.finfo(dtype).max)
        self.epsilon = float(xp.finfo(dtype).eps)

    def like(self, value: Array | float, x: Array) -> Array:
        """A Python number as an array of the dtype of `x`, which broadcasts with it."""
        return self.xp.full_like(x, value) if isinstance(value, (int, float)) else value

    def scalar(self, value: Any) -> Any:
        """An option: a number as it is, a 0-d array in the dtype to compute in."""
        return value if isinstance(value, (int, float)) else self.xp.astype(value, self.dtype)

    def constant(self, x: Array) -> Array:
        """`x`, through which no derivative flows."""
        return x

    def along(self, values: Array, x: Array) -> Array:
        """One value for each class, in a shape that broadcasts with `x`."""
        return self.xp.reshape(values, tuple(-1 if i == self.axis else 1 for i in range(x.ndim)))

    def not_above(self, x: Array, bound: float) -> Array:
        """min(x, bound), with the derivative 1 at the bound, where a library's minimum has 1/2."""
        return self.xp.where(x > bound, self.like(bound, x), x)

    def nonzero_only(self, x: Array, weight: Array) -> Array:
        """`x`, but 0 where the weight is 0 and x is not finite.

        A finite x is kept: it is the derivative of weight * x with respect to the weight, also where the weight is 0.
        """
        return self.xp.where((weight == 0) & ~self.xp.isfinite(x), self.xp.zeros_like(x), x)

    def sum_of_weights(self, x: Array) -> Array:
        """The sum of each row of finite numbers, most of which may be equal."""
        return self.sum(x)

    # The twelve that a library may do its own way: the two of `Position`, and these ten.

    def max(self, x: Array) -> Array:
        """The maximum of each row, a constant for derivatives."""
        return self.constant(self.xp.max(x, axis=self.axis, keepdims=True))

    def at_label(self, labels: Array, x: Array) -> Position:
        """The position of the labels, which are in range, in the rows of `x`."""
        positions = self.xp.arange(x.shape[self.axis], dtype=labels.dtype, **placed(labels))
        return ComparedLabel(self, self.along(positions, x) == labels)

    def at_max(self, x: Array, top: Array) -> Position:
        """The position of the maximum `top` of each row of `x`."""
        return Compared(self, x >= top)

    def exp_below(self, x: Array, top: Array) -> Array:
        """exp(min(x - top, 0)), a new array; subnormal results may be 0."""
        return self.xp.exp(self.not_above(x - top, 0.0))

    def sum(self, x: Array) -> Array:
        """The sum of each row."""
        return self.xp.sum(x, axis=self.axis, keepdims=True)

    def peel(self, e: Array, at: Any) -> Array:
        """The sum of each row of `e` without one maximum, where `e` is 1. `at` is from `at_max`; `e` is not changed."""
        xp = self.xp
        ties = self.sum(xp.astype(at.hit, e.dtype))
        # e - 1, not 0, is put there: 0 would have no derivative.
        return self.sum(at.put(e, e - 1)) + (ties - 1)

    def scale(self, x: Array, factor: Array) -> Array:
        """x times one factor for each row, 0 wherever that is 0; it may overwrite `x`."""
        return self.multiply_zero_wins(factor, x)

    def multiply_zero_wins(self, weight: Array, x: Array) -> Array:
        """weight * x, and 0 where the weight is 0, whatever x is there."""
        # inf and nan are replaced before the product, so that they stay out of its derivative too.
        return weight * self.nonzero_only(x, weight)

    def sides(self, x: Array) -> tuple[Array, Array]:
        """max(x, 0) and max(-x, 0); at x = 0 their derivatives are 1 and 0."""
        xp = self.xp
        positive, zero = x >= 0, xp.zeros_like(x)
        return xp.where(positive, x, zero), xp.where(positive, zero, -x)

    def one_by_sign(self, x: Array, e: Array) -> tuple[Array, Array]:
        """(1, e) where x >= 0, and (e, 1) elsewhere; e is in [0, 1]."""
        xp = self.xp
        positive, one = x >= 0, xp.ones_like(x)
        return xp.where(positive, one, e), xp.where(positive, e, one)
