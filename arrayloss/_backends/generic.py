"""Any library with an array API namespace: whole arrays in the shape they have, and nothing but the standard."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from arrayloss._kernels.ops import Array, Forward, Kernel, Namespace, Ops, placed

Arrays = tuple[Any, ...]  # the inputs of a kernel, the logits first; optional ones may be None


# From (sums, a block of rows) to (sums, results for each row).
Step = Callable[[Arrays, Arrays], tuple[Arrays, Arrays]]


class Call(NamedTuple):
    """A kernel, the class axis of its arrays, from the front (None: elementwise), and the dtype to compute in."""

    kernel: Kernel
    axis: int | None
    dtype: Any


class Backend:
    """How to compute with one library's arrays; the defaults suit any.

    What `_problem` asks for: the facts about an array (`owns`, `device`, `can_inspect`, dtypes), sums over samples, and
    three ways to run a kernel: `value`, `value_and_gradient` and `reduced`. Their `arrays` are the logits and the
    kernel's other inputs, all of them with the axes of the logits.
    """

    # How many bytes a block of logits of a linear layer has. Their exponentials take as much again.
    logits_bytes = 23 * 1024 * 1024

    def __init__(self, xp: Namespace) -> None:
        self.xp = xp

    # -----------------------------------------------------------------------------------------------------------
    # Facts

    @property
    def name(self) -> str:
        # A namespace may be any object, not a module alone.
        name: str = getattr(self.xp, "__name__", type(self.xp).__name__)
        return name.removeprefix("array_api_compat.").removesuffix(".numpy").removesuffix(".array")

    def owns(self, x: Any) -> bool:
        """Whether `x` is an array of this library."""
        return hasattr(x, "__array_namespace__") and Backend(x.__array_namespace__()).name == self.name

    def refusal(self, x: Array) -> Exception | None:
        """The error that says what this array is and what to pass in its place, if it can't be computed with."""
        return None

    def device(self, x: Array) -> Any:
        """Where `x` lives, or None where that can't be told (under a tracer)."""
        return getattr(x, "device", None)

    def can_inspect(self, *arrays: Array | None) -> bool:
        """Whether the numbers may be looked at, for errors: they are there, and on a CPU."""
        return all(a is None or "cpu" in str(self.device(a)).lower() for a in arrays)

    def is_constant(self, x: Array) -> bool:
        """Whether a 0-d array can be replaced by its number."""
        return self.can_inspect(x)

    def on_tape(self, *arrays: Array | None) -> bool:
        """Whether the library may ask for derivatives by any of `arrays`."""
        return False

    def kind(self, dtype: Any) -> str | None:
        """The kind of a dtype: "bool", "integral" or "real floating"; None for those that are not supported."""
        name = str(getattr(dtype, "name", dtype)).rpartition(".")[2]
        if name.startswith(("float8", "float4", "float96", "float128", "longdouble")):
            return None
        try:
            return next((k for k in ("real floating", "integral", "bool") if self.xp.isdtype(dtype, k)), None)
        except TypeError:
            # NumPy's isdtype refuses the dtypes of ml_dtypes (bfloat16), which NumPy's own functions don't know either.
            return None

    def compute_dtype(self, *dtypes: Any) -> Any:
        """The dtype to compute in: float64 if one of these is, else float32."""
        # Not result_type: torch.compile traces none of dtypes, and JAX's raises where promotion is "strict".
        return self.xp.float64 if self.xp.float64 in dtypes else self.xp.float32

    def integer_range(self, dtype: Any) -> tuple[int, int]:
        """The smallest and the largest integer of a dtype."""
        info = self.xp.iinfo(dtype)
        return int(info.min), int(info.max)

    def result_dtype(self, x: Array) -> Any:
        """The dtype of a loss of the logits `x`, unless another is asked for."""
        return x.dtype

    def index_dtype(self, x: Array) -> Any:
        """The dtype of indices on the device of `x`: int64, or int32 where there is no int64."""
        return self.xp.__array_namespace_info__().default_dtypes(device=self.device(x))["indexing"]

    def astype(self, x: Array, dtype: Any) -> Array:
        """`x` as it is, or in another dtype."""
        return x if x.dtype == dtype else self.xp.astype(x, dtype)

    # -----------------------------------------------------------------------------------------------------------
    # Numbers

    def context(self, x: Array) -> AbstractContextManager[Any]:
        """What a call runs in: nan and inf make no warning, and new arrays are on the device of `x`."""
        # Many libraries' arrays are NumPy arrays underneath, and make NumPy's warnings.
        import numpy as np

        return np.errstate(all="ignore")

    def comparable(self, x: Array) -> Array:
        """Integers in a dtype in which they can be compared."""
        return x

    def span(self, x: Array) -> tuple[float, float]:
        """The smallest and the largest element, or nan, of an array that may be inspected and has one."""
        return float(self.xp.min(x)), float(self.xp.max(x))

    def integer(self, x: Array) -> int:
        """The number of a 0-d array of integers."""
        return int(x)

    def number(self, value: float, like: Array, dtype: Any) -> Array:
        """A 0-d array on the device of `like`."""
        return self.xp.full((), value, dtype=dtype, **placed(like))

    def arange(self, n: int, like: Array) -> Array:
        """0 .. n - 1, with the dtype and on the device of `like`."""
        return self.xp.arange(n, dtype=like.dtype, **placed(like))

    def sum(self, x: Array, axis: tuple[int, ...] | None = None) -> Array:
        """The sum of all of `x` or along some axes, in float64 where the device has it: all digits of a float32."""
        return self.xp.sum(x, axis=axis, dtype=self.widest(x))

    def widest(self, x: Array) -> Any:
        """float64 where the device of `x` has it, else the dtype of `x`."""
        info = self.xp.__array_namespace_info__()
        return info.dtypes(device=self.device(x), kind="real floating").get("float64", x.dtype)

    def finished(self, *sums: Any) -> tuple[Any, ...]:
        """Results of `sum` and `count`, or Python numbers, ready to compute with: a DTensor's are partial before."""
        return sums

    def count(self, condition: Array, axis: tuple[int, ...] | None = None) -> Array:
        """How many elements are true, of all or along some axes."""
        dtype = self.index_dtype(condition)
        # Not count_nonzero, which array-api-strict makes an int64 even where its device has none.
        return self.xp.sum(self.xp.astype(condition, dtype), axis=axis, dtype=dtype)

    def size(self, shape: tuple[int, ...], x: Array, axis: int | None) -> Any:
        """How many samples of `shape` there are, of logits `x` with the class axis `axis`."""
        return math.prod(shape)

    def gathered(self, x: Array) -> Array:
        """`x`, not split over devices."""
        return x

    def gather(self, values: Array, labels: Array) -> Array:
        """values[labels], of (classes,) and integers of any shape."""
        xp = self.xp
        return xp.reshape(xp.take(values, xp.reshape(labels, (-1,))), labels.shape)

    # -----------------------------------------------------------------------------------------------------------
    # Kernels

    def ops(self, call: Call) -> Ops:
        return _Folding(self.xp, call.dtype, call.axis)

    def value(self, call: Call, arrays: Arrays, *, summed: bool = False) -> Array:
        """The kernel's value, differentiable by this library's own autodiff where it has one.

        With `summed`, the result may be partial sums.
        """
        return self.forward(call, arrays).value

    def value_and_gradient(
        self, call: Call, arrays: Arrays, cotangent: Array, *, summed: bool = False, overwrite: bool = False
    ) -> tuple[Array, Array]:
        """The kernel's value, as `value` has it, and the gradient by the logits in closed form, in one pass.

        With `overwrite`, the gradient may take the place of the logits.
        """
        forward = self.forward(call, arrays)
        vjp = forward.vjps[0]
        assert vjp is not None  # every loss has a derivative by the logits
        return forward.value, self.astype(vjp(self.astype(cotangent, call.dtype)), arrays[0].dtype)

    def reduced(
        self, call: Call, arrays: Arrays, reduce: Callable[[Array], Array], cotangent: Callable[[], Array]
    ) -> Array:
        """`reduce(value)`, of a value that may be partial sums; `cotangent()`: the result's derivative by each loss."""
        return reduce(self.value(call, arrays, summed=True))

    # -----------------------------------------------------------------------------------------------------------
    # What runs a kernel, and a linear layer before a loss (`arrayloss._head`)

    def runs_blocks(self, layer: Arrays, others: Arrays) -> bool:
        """Whether a loss of a linear layer, in blocks, has right derivatives here; `others` are its other arrays."""
        return not self.on_tape(*others)

    def product_dtype(self, x: Array, weight: Array) -> Any:
        """The dtype of the products of two arrays."""
        return x.dtype if x.dtype == weight.dtype else self.xp.result_type(x.dtype, weight.dtype)

    def linear(self, blocks: Any, arrays: Arrays, *, summed: bool) -> Array:
        """The losses that `blocks` makes of rows, differentiable by this library's own autodiff where it has one.

        With `summed`, the result may be partial sums.
        """
        return self.run_blocks(blocks, arrays, None)[0]

    def run_blocks(
        self, blocks: Any, arrays: Arrays, g: Array | None, needed: tuple[bool, ...] = (True, True, True)
    ) -> tuple[Array, Any]:
        """`blocks.run`: the losses, and for a cotangent `g` of them the gradients that are needed."""
        return blocks.run(self, arrays, g, needed)  # type: ignore[no-any-return]

    def scan(self, step: Step, sums: Arrays, rows: Arrays, size: int, number: int) -> tuple[Arrays, Arrays]:
        """Run `step(sums, block of rows) -> (sums, results)` on one block after the other; the last sums, all results.

        There are `number` blocks of `size` rows; the last may have fewer. An array without rows is passed whole.
        """
        n = rows[0].shape[0]
        made = []
        for i in range(0, max(n, 1), size):
            block = (a if a is None or a.ndim == 0 or a.shape[0] != n else a[i : min(i + size, n), ...] for a in rows)
            sums, results = step(sums, tuple(block))
            made.append(results)
        return sums, tuple(self.xp.concat(parts, axis=0) for parts in zip(*made, strict=True))

    def scratch(self, shape: tuple[int, ...], like: Array) -> Array | None:
        """An array that every product is written to; None for a library whose arrays are never overwritten."""
        return None

    def product(self, a: Array, b: Array, scratch: Array | None) -> Array:
        """a @ b, in the first rows of `scratch` where there is one."""
        return a @ b

    def add_product(self, total: Array, a: Array, b: Array) -> Array:
        """total + a @ b; it may overwrite `total`."""
        return total + self.astype(a @ b, total.dtype)

    def differentiable(self, call: Call, arrays: Arrays) -> Arrays:
        """A kernel's inputs for the library's own derivatives, which make nan of logits that are not finite.

        If their weight is 0, the logits become 0.
        """
        x, *others = arrays
        if not others or others[0] is None:
            return arrays
        finite = self.xp.isfinite(x if call.axis is None else self.xp.max(x, axis=call.axis, keepdims=True))
        return self.xp.where((others[0] == 0) & ~finite, self.xp.zeros_like(x), x), *others

    def forward(self, call: Call, arrays: Arrays) -> Forward:
        """The kernel on whole arrays, with every input in the dtype to compute in."""
        return call.kernel.forward(self.ops(call), *(self.prepared(call, a) for a in arrays))

    def prepared(self, call: Call, x: Array | None) -> Array | None:
        """An input in the dtype to compute in; labels of classes stay integers."""
        if x is None or x.dtype == call.dtype:
            return x
        if not call.kernel.elementwise and self.kind(x.dtype) == "integral":
            return x
        return self.astype(x, call.dtype)


def rows_in_blocks(n: Any, width: Any, most: int) -> tuple[Any, int]:
    """How many of n rows of `width` bytes a block of `most` bytes has, and how many blocks there are."""
    if not (isinstance(n, int) and isinstance(width, int)):
        return n, 1  # a symbolic length, of torch.export or jax.export
    number = max(1, -(-n // max(1, most // width)))
    return max(1, -(-n // number)), number


def is_static(kernel: Any) -> bool:
    """Whether a kernel holds only Python numbers, no traced values: compilers can tell it from others by its hash."""
    if isinstance(kernel, (int, float)):
        return True
    if hasattr(kernel, "dtype"):
        return False
    return all(is_static(getattr(kernel, name)) for name in getattr(kernel, "__dataclass_fields__", ()))


class _Standard:
    """A namespace as it is, except that a function which it lacks is a TypeError with its name."""

    def __init__(self, xp: Namespace) -> None:
        self._xp = xp
        self.__name__ = Backend(xp).name

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(self._xp, name)
        except AttributeError:
            lacks = f"{self.__name__} lacks {name}, a part of the array API standard that is needed here"
            raise TypeError(lacks) from None


class Unknown(Backend):
    """A library of which nothing is known but that its arrays have an array API namespace."""

    def __init__(self, xp: Namespace) -> None:
        super().__init__(_Standard(xp))

    def sum(self, x: Array, axis: tuple[int, ...] | None = None) -> Array:
        return self.xp.sum(self.astype(x, self.widest(x)), axis=axis)  # MLX's sum has no dtype=

    def count(self, condition: Array, axis: tuple[int, ...] | None = None) -> Array:
        try:
            return super().count(condition, axis)
        except TypeError:  # MLX's sum has no dtype=, and keeps that of integers
            return self.xp.sum(self.xp.astype(condition, self.index_dtype(condition)), axis=axis)

    def size(self, shape: tuple[int, ...], x: Array, axis: int | None) -> Any:
        if None not in shape:
            return super().size(shape, x, axis)
        # A length of None is known only when the graph runs.
        one = x if axis is None else x[tuple(0 if i == axis else slice(None) for i in range(x.ndim))]
        return self.count(self.xp.ones_like(one, dtype=self.xp.bool))


NO_CONTEXT: AbstractContextManager[Any] = nullcontext()


class _Folding(Ops):
    """For a namespace whose sums may add one number after the other: rows are folded first, for smaller errors."""

    def sum(self, x: Array) -> Array:
        return super().sum(folded(self.xp, x, self.axis, max(1, x.shape[self.axis] // 8)))


def folded(xp: Namespace, x: Array, axis: int, most: int) -> Array:
    """`x` folded along `axis`: its halves are added to each other, until no more than `most` numbers are left."""

    def part(first: int, end: int) -> Array:
        return x[tuple(slice(first, end) if i == axis else slice(None) for i in range(x.ndim))]

    while (n := x.shape[axis]) > most:
        half = n // 2
        pairs = part(0, half) + part(half, 2 * half)
        x = xp.concat((pairs, part(2 * half, n)), axis=axis) if n % 2 else pairs
    return x
