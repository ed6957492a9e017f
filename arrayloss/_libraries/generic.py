"""Any library with an array API namespace: whole arrays, and nothing but the standard."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

from arrayloss._kernels import Evaluated
from arrayloss._modes import Array, Eager, Namespace, Traced, halved
from arrayloss._rows import Arrays, Work, whole

# Rows from which a block's losses are summed with it; fewer are no less work than a sum of sums.
_MANY = 1 << 14


def summing(mode: Traced, arrays: Arrays) -> Traced:
    """`mode`, or where it pays, one for a kernel of whose values only the sum is asked for."""
    x = arrays[0]
    return mode.summing() if isinstance(mode, Eager) and x.ndim == 2 and x.shape[0] >= _MANY else mode


@lru_cache(maxsize=256, typed=True)
def _remembered(f: Callable[..., Any], *signature: Any) -> Any:
    return f(*signature)


def remembered(f: Callable[..., Any], *signature: Any) -> Any:
    """`f(*signature)`, or what it was the last time."""
    try:
        return _remembered(f, *signature)
    except TypeError:
        pass  # Unhashable, or refused, which is said better without the detour.
    return f(*signature)


class _Folding(Traced):
    """For a namespace whose sums may add one number after the other: halves are added first."""

    def sum(self, x: Array) -> Array:
        return super().sum(halved(self.xp, x, max(1, x.shape[1] // 8)))

    def pairwise(self, x: Array) -> Array:
        return super().sum(halved(self.xp, x, 8))


class Library:
    """How to run kernels on one library's arrays; the defaults suit any."""

    def __init__(self, xp: Namespace) -> None:
        self.xp = xp

    @property
    def name(self) -> str:
        # A namespace may be any object, not a module alone.
        name: str = getattr(self.xp, "__name__", type(self.xp).__name__)
        return name.removeprefix("array_api_compat.").removesuffix(".numpy").removesuffix(".array")

    def owns(self, x: Any) -> bool:
        """Whether `x` is an array of this library."""
        return hasattr(x, "__array_namespace__") and Library(x.__array_namespace__()).name == self.name

    def quiet(self) -> AbstractContextManager[Any]:
        """Within it, nan and inf are made without a warning."""
        # Many a library's arrays are NumPy's underneath.
        import numpy as np

        return np.errstate(all="ignore")

    def device(self, x: Array) -> Any:
        """Where `x` lives, or None where that can't be told (under a tracer)."""
        return x.device

    def compute_dtype(self, *dtypes: Any) -> Any:
        """The dtype to compute in: the largest of these, and float32 at least."""
        return self.xp.result_type(self.xp.float32, *dtypes)

    def index_dtype(self, x: Array) -> Any:
        """The dtype of indices on the device of `x`: int64, or int32 where there is no int64."""
        return self.xp.__array_namespace_info__().default_dtypes(device=self.device(x))["indexing"]

    def isdtype(self, dtype: Any, kind: str | tuple[str, ...]) -> bool:
        """The standard's `isdtype`."""
        return bool(self.xp.isdtype(dtype, kind))

    def kept(self, f: Callable[..., Any], *signature: Any) -> Any:
        """`f` of shapes, dtypes and options, which depends on these alone; a library may remember it."""
        return f(*signature)

    def astype(self, x: Array, dtype: Any) -> Array:
        """`x` as it is, or in another dtype."""
        return x if x.dtype == dtype else self.xp.astype(x, dtype)

    def span(self, x: Array) -> tuple[float, float]:
        """The smallest and the largest element, or nan, of an array that may be looked at; there is one."""
        return float(self.xp.min(x)), float(self.xp.max(x))

    def sum(self, x: Array) -> Array:
        """The sum of all of `x`, in float64 where the device has it: right to the last bit of a float32."""
        return self.xp.sum(x, dtype=self._doubles(x) or x.dtype)

    def _doubles(self, x: Array, *_: Array | None) -> Any:
        """float64, or None where the device of `x` has none."""
        info = self.xp.__array_namespace_info__()
        return info.dtypes(device=self.device(x), kind="real floating").get("float64")

    def count(self, condition: Array) -> Array:
        """How many elements are true."""
        dtype = self.index_dtype(condition)
        # Not count_nonzero, which array-api-strict makes an int64 even where its device has none.
        return self.xp.sum(self.xp.astype(condition, dtype), dtype=dtype)

    def looks(self, *arrays: Array | None) -> bool:
        """Whether the numbers may be looked at: they are there, and on a CPU."""
        return all(a is None or "cpu" in str(self.device(a)).lower() for a in arrays)

    def answers(self, y: Array) -> tuple[bool, bool]:
        """Whether all of `y` is in [0, 1], and whether it is 0 or 1 alone."""
        xp = self.xp
        if bool(xp.all((y == 0) | (y == 1))):
            return True, True
        return bool(xp.min(y) >= 0) and bool(xp.max(y) <= 1), False

    def differentiates(self, *arrays: Array | None) -> bool:
        """Whether this library may ask for derivatives by any of `arrays`."""
        return False

    def mode(self, dtype: Any, *arrays: Array | None) -> Traced:
        return _Folding(self.xp, dtype, self._doubles(*arrays))

    def run(self, mode: Traced, work: Work, arrays: Arrays, *, placed: bool = False) -> tuple[Array | None, ...]:
        """`work` in `mode` over the rows of canonical `arrays`; `placed` says that it has room for what is large."""
        return whole(self.xp, work, arrays)

    def order(self, x: Array) -> tuple[int, ...] | None:
        """The axes of `x` as they lie in memory, where that is not their own order, or None."""
        return None

    def room(self, x: Array, dtype: Any) -> Array | None:
        """What a result of the shape of `x` may be written into block by block; None where arrays aren't written to."""
        return None

    def placed(self, y: Array, room: Array | None) -> Array | None:
        """`y`, or None once it is in the room that there is for it."""
        if room is None:
            return y
        if y is not room:
            room[...] = y
        return None

    def summing(self, mode: Traced, arrays: Arrays) -> Traced:
        """`mode`, for a kernel of whose values only the sum is asked for."""
        return mode

    def apply(self, kernel: Any, arrays: Arrays, *, summed: bool = False) -> Array:
        """The kernel's value, differentiable by this library's own autodiff where it has one.

        `summed` asks for the sum of the values alone: for any numbers that have the same.
        """
        mode = self._mode_of(kernel, arrays, summed)
        x, *others = arrays
        room = self.room(x, kernel.dtype) if kernel.keeps_classes else None

        def work(x: Array, room: Array | None, *rows: Any) -> tuple[Array | None]:
            return (self.placed(self._value(mode, kernel(mode.into(value=room), x, *rows)), room),)

        (value,) = self.run(mode, work, (x, room, *others), placed=room is not None)
        return value if room is None else room

    def _mode_of(self, kernel: Any, arrays: Arrays, summed: bool) -> Traced:
        mode = self.mode(kernel.dtype, *arrays)
        return self.summing(mode, arrays) if summed else mode

    def _value(self, mode: Traced, evaluated: Evaluated) -> Array:
        return self.xp.reshape(self.sum(evaluated.value), (1, 1)) if mode.sums else evaluated.value

    def apply_reduced(
        self, kernel: Any, arrays: Arrays, reduced: Callable[[Array], Array], cotangent: Callable[[], Array]
    ) -> Array:
        """`reduced`, of nothing but the sum of `apply`; `cotangent` makes the derivative by each loss."""
        return reduced(self.apply(kernel, arrays, summed=True))

    def gradient(self, kernel: Any, arrays: Arrays, cotangent: Array, *, summed: bool = False) -> tuple[Array, Array]:
        """The kernel's value, as `apply` has it, and the gradient by its first input in closed form, in one pass."""
        mode = self._mode_of(kernel, arrays, summed)
        xp = self.xp
        x, *others = arrays
        room = self.room(x, x.dtype)

        def work(x: Array, g: Array, room: Array | None, *rows: Any) -> tuple[Array | None, ...]:
            evaluated: Evaluated = kernel(mode.into(gradient=room), x, *rows)
            pull = evaluated.pulls[0]
            assert pull is not None  # every kernel has the derivative by its first input
            gradient = pull(mode.real(g))
            if room is None and gradient.dtype != x.dtype:
                gradient = xp.astype(gradient, x.dtype)
            return self._value(mode, evaluated), self.placed(gradient, room)

        value, gradient = self.run(mode, work, (x, cotangent, room, *others), placed=room is not None)
        return value, gradient if room is None else room

    def cross_entropy(self, logits: Array, target: Array) -> Array | None:
        """The plain mean by an operation of the library's own, where that is less work and as right; else None."""
        return None

    def gather(self, values: Array, labels: Array) -> Array:
        """values[labels], of (classes,) and integers of any shape."""
        xp = self.xp
        return xp.reshape(xp.take(values, xp.reshape(labels, (-1,))), labels.shape)
