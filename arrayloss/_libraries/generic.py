"""Any library with an array API namespace: whole arrays, and nothing but the standard."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from arrayloss._kernels import Evaluated
from arrayloss._modes import Array, Namespace, Traced
from arrayloss._rows import Arrays, Work, whole


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

    def differentiates(self, *arrays: Array | None) -> bool:
        """Whether this library may ask for derivatives by any of `arrays`."""
        return False

    def mode(self, dtype: Any, *arrays: Array | None) -> Traced:
        return Traced(self.xp, dtype, self._doubles(*arrays))

    def run(self, work: Work, arrays: Arrays, *, placed: bool = False) -> tuple[Array | None, ...]:
        """`work` over the rows of canonical `arrays`; `placed` says that it has room for what is large."""
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

    def apply(self, kernel: Any, arrays: Arrays) -> Array:
        """The kernel's value, differentiable by this library's own autodiff where it has one."""
        mode = self.mode(kernel.dtype, *arrays)
        x, *others = arrays
        room = self.room(x, kernel.dtype) if kernel.keeps_classes else None

        def work(x: Array, room: Array | None, *rows: Any) -> tuple[Array | None]:
            return (self.placed(kernel(mode.into(value=room), x, *rows).value, room),)

        (value,) = self.run(work, (x, room, *others), placed=room is not None)
        return value if room is None else room

    def apply_reduced(
        self, kernel: Any, arrays: Arrays, reduced: Callable[[Array], Array], cotangent: Callable[[], Array]
    ) -> Array:
        """`reduced` of `apply`; `cotangent` makes the derivative by each loss, as `gradient` takes it."""
        return reduced(self.apply(kernel, arrays))

    def gradient(self, kernel: Any, arrays: Arrays, cotangent: Array) -> tuple[Array, Array]:
        """The kernel's value, and the gradient by its first input in closed form, in one pass."""
        mode = self.mode(kernel.dtype, *arrays)
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
            return evaluated.value, self.placed(gradient, room)

        value, gradient = self.run(work, (x, cotangent, room, *others), placed=room is not None)
        return value, gradient if room is None else room

    def gather(self, values: Array, labels: Array) -> Array:
        """values[labels], of (classes,) and integers of any shape."""
        xp = self.xp
        return xp.reshape(xp.take(values, xp.reshape(labels, (-1,))), labels.shape)
