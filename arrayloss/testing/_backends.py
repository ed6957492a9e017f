"""The array libraries found here: how to bring arrays over, differentiate, and put a case to a function.

A gradient is computed in two ways, and both are judged: `closed` is the implementation's own `value_and_grad`, on any
library; `auto` is the library's autodiff through the plain function.
"""

from __future__ import annotations

import importlib
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from arrayloss.testing._cases import Case, Reduce
from arrayloss.testing._formats import Floats

Loss = Callable[..., Any]
Numbers = dict[str, Floats]
"""What came back, by quantity: `value`, `closed d logits`, `auto d logits`, `auto d target`, ..."""


@dataclass(frozen=True)
class Implementation:
    """What is judged: functions by their public name, called as `f(logits, target, /, **options)`.

    Attributes
    ----------
    functions
        The callables, by the name of the function that each is judged as.
    value_and_grad
        Turns such a callable into one that gives value and gradient; None: there's no closed form.
    reduction
        Builds the reduction object that stands for a `Reduce`.
    backends
        The libraries it works on; None for any.
    not_covered
        Why a case can't be put to it, or None.
    strict
        Whether a warning counts as a failure.
    single
        Whether it always returns the mean or the sum, so that single losses are computed one sample at a time.
    adapted
        The case as it is put to the functions: with labels as one-hot targets, say.
    fixed
        Options that differ from the contract's default unless a case gives them, and what they are then.
    mode
        The mode of its library in which judging it takes the least time.
    """

    name: str
    functions: Mapping[str, Loss]
    value_and_grad: Callable[[Loss], Loss] | None = None
    reduction: Callable[[Reduce], Any] = str
    backends: tuple[str, ...] | None = None
    not_covered: Callable[[Case], str | None] = lambda case: None
    strict: bool = False
    single: bool = False
    adapted: Callable[[Case], Case] = lambda case: case
    fixed: Mapping[str, Any] = field(default_factory=dict)
    mode: str = "eager"


@dataclass
class Backend:
    """One library on one device: how to bring arrays over and back, and how to differentiate with it.

    Attributes
    ----------
    name
        "numpy", "torch:cpu", "torch:cuda", "jax:cpu", "jax:cuda", "array-api-strict", "dask" or "cupy".
    modes
        "eager", and the library's compiler where it has one ("jax.jit", "torch.compile").
    dtypes
        The floating-point formats that it has, by name.
    dynamic
        Whether what torch.compile makes works for arrays of other sizes too; compiling takes longer.
    """

    name: str
    modes: tuple[str, ...] = ("eager",)
    dtypes: tuple[str, ...] = ("float16", "float32", "float64")
    compiled: dict[Any, Loss] = field(default_factory=dict)
    dynamic: bool = True

    @property
    def module(self) -> str:
        """The library's top-level module."""
        return self.name.split(":")[0].replace("-", "_")

    def missing(self) -> str | None:
        """Why it can't be run here, or None."""
        try:
            importlib.import_module(self.module)
        except ImportError:
            return f"{self.module} is not installed"
        return None

    @cached_property
    def xp(self) -> Any:
        """The namespace that has `asarray` and the dtypes."""
        return importlib.import_module(self.module)

    @property
    def differentiates(self) -> bool:
        """Whether the library has autodiff."""
        return False

    def owns(self, values: Any) -> bool:
        """Whether `values` is an array of this library on this device."""
        return type(values).__module__.split(".")[0] == self.module

    def dtype(self, name: str) -> Any:
        """The library's own dtype of that name."""
        return getattr(self.xp, name)

    def array(self, values: Floats, dtype: str) -> Any:
        """Bring a NumPy array over; `dtype` is a floating-point format, "int64" or "bool"."""
        return self.xp.asarray(np.asarray(values.astype(dtype)))

    def numpy(self, values: Any) -> Floats:
        """Bring an array back, as float64."""
        return np.asarray(values).astype(np.float64)

    def setting(self, *dtypes: str) -> Any:
        """A context in which arrays of these dtypes can be made and used (JAX's float64 is a setting)."""
        return nullcontext()

    def differentiate(self, f: Loss, moving: Mapping[str, Any], cotangent: Any = None) -> tuple[Any, dict[str, Any]]:
        """Call a function and differentiate it with the library's own autodiff.

        Parameters
        ----------
        f
            Takes a mapping of arrays by name; gives one array.
        moving
            The arrays to call it with and to differentiate by, of this library and of a floating-point dtype.
        cotangent
            What is pulled back, of the result's shape and dtype; None for ones.

        Returns
        -------
        value, gradients
            The result, and the derivative of `sum(cotangent * result)` by each array.

        Raises
        ------
        TypeError
            If the library has no autodiff (see `differentiates`).
        WrongShape
            If the result is not of the shape of the cotangent.
        """
        raise TypeError(f"{self.name} has no autodiff")

    def evaluate(self, implementation: Implementation, case: Case, mode: str) -> Numbers:
        """Put a case to an implementation and bring back the results; of a value of a wrong shape, only the value."""
        adapted = implementation.adapted(case)
        if adapted.arrays["logits"].ndim > case.arrays["logits"].ndim:  # adapted by an axis of length 1 at the end
            found = self.evaluate(replace(implementation, adapted=lambda one: one), adapted, mode)
            return {name: values[..., 0] if values.ndim == 2 else values for name, values in found.items()}
        case = adapted
        with self.setting(case.dtype, case.result_dtype), no_warnings(implementation.strict):
            if not implementation.single or case.reduction != "none":
                return self.call(implementation, case, mode)
            said = [self.call(implementation, one, mode) for one in case.samples()]
            return {
                name: np.stack([n[name] for n in said]) if "value" in name else np.concatenate([n[name] for n in said])
                for name in said[0]
            }

    def call(self, implementation: Implementation, case: Case, mode: str) -> Numbers:
        """Value and closed gradient: what every library can do."""
        loss = implementation.functions[case.function]
        arrays, options = self.arguments(implementation, case)
        found = {"value": self.numpy(_apply(loss, arrays, options))}
        if implementation.value_and_grad is not None and "target" in arrays and "logits" in case.wrt:
            both = implementation.value_and_grad(loss)
            value, gradient = _apply(both, arrays, {**options, **self.pull(case)})
            found["closed value"], found["closed d logits"] = self.numpy(value), self.numpy(gradient)
        return found

    def arguments(self, implementation: Implementation, case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
        """The arrays and the options of a case as this library's."""
        arrays = {name: self.array(values, self.kind(case, name)) for name, values in case.arrays.items()}
        options = dict(case.options)
        if isinstance(options.get("reduction"), Reduce):
            options["reduction"] = implementation.reduction(options["reduction"])
        if "dtype" in options:
            options["dtype"] = self.dtype(options["dtype"])
        return arrays, options

    def kind(self, case: Case, name: str) -> str:
        """The dtype that an array of a case is passed in."""
        if name == "where" or (name == "target" and case.target_kind == "bool"):
            return "bool"
        return "int64" if name == "target" and case.target_kind == "index" else case.dtype

    def pull(self, case: Case) -> dict[str, Any]:
        """The cotangent as an option, where there is one."""
        return {} if case.cotangent is None else {"cotangent": self.array(case.cotangent, case.result_dtype)}


class WrongShape(ValueError):
    """A result that has another shape than what is pulled back from it."""

    def __init__(self, value: Any, due: tuple[int, ...]) -> None:
        super().__init__(f"a result of shape {tuple(value.shape)}, and a cotangent of shape {due}")
        self.value = value


def _fits(value: Any, cotangent: Any) -> None:
    if cotangent is not None and tuple(value.shape) != tuple(cotangent.shape):
        raise WrongShape(value, tuple(cotangent.shape))


def own_traceback(error: BaseException) -> str:
    """The traceback of an exception, from where this package called the function under test."""
    frames = traceback.extract_tb(error.__traceback__)
    here = str(Path(__file__).parent)
    first = 1 + max((i for i, frame in enumerate(frames) if frame.filename.startswith(here)), default=-1)
    return "".join([*traceback.format_list(frames[first:]), *traceback.format_exception_only(error)])


@contextmanager
def no_warnings(strict: bool) -> Iterator[None]:
    """No warning is shown; where `strict`, a RuntimeWarning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if strict:
            warnings.simplefilter("error", RuntimeWarning)
        yield


def _apply(loss: Loss, arrays: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """Call with logits and target by position, the rest by name."""
    leading = [arrays[name] for name in ("logits", "target") if name in arrays]
    named = {name: values for name, values in arrays.items() if name not in ("logits", "target")}
    return loss(*leading, **named, **options)


def _signature(loss: Loss, case: Case, mode: str) -> Any:
    """What a compiled function depends on besides its arrays."""
    options = tuple((name, str(value)) for name, value in sorted(case.options.items()))
    return loss, mode, case.dtype, case.target_kind, options, tuple(sorted(case.arrays)), case.wrt


# ---------------------------------------------------------------- one class for each library that differs


class _Numpy(Backend):
    def owns(self, values: Any) -> bool:
        return isinstance(values, np.ndarray | np.generic | float)


class _Strict(Backend):
    def numpy(self, values: Any) -> Floats:
        return super().numpy(values.to_device(self.xp.Device("CPU_DEVICE")))


class _Dask(Backend):
    def missing(self) -> str | None:
        try:
            importlib.import_module("dask.array")
        except ImportError:
            return "dask is not installed"
        return None

    def array(self, values: Floats, dtype: str) -> Any:
        xp = importlib.import_module("dask.array")
        # Two chunks along the samples, one along every other axis.
        chunks = [max(1, -(-n // 2)) if axis == 0 else n for axis, n in enumerate(values.shape)]
        return xp.from_array(np.asarray(values.astype(dtype)), chunks=tuple(chunks))

    def dtype(self, name: str) -> Any:
        return np.dtype(name)

    def numpy(self, values: Any) -> Floats:
        return np.asarray(values.compute()).astype(np.float64)


class _Cupy(Backend):
    def missing(self) -> str | None:
        reason = super().missing()
        if reason is None and not self.xp.cuda.is_available():
            return "no CUDA device"
        return reason

    def numpy(self, values: Any) -> Floats:
        return np.asarray(values.get()).astype(np.float64)


class _Torch(Backend):
    def missing(self) -> str | None:
        reason = super().missing()
        if reason is None and self.device == "cuda" and not self.xp.cuda.is_available():
            return "no CUDA device"
        return reason

    @property
    def device(self) -> str:
        return self.name.split(":")[1]

    @property
    def differentiates(self) -> bool:
        return True

    def owns(self, values: Any) -> bool:
        return super().owns(values) and str(values.device.type) == self.device

    def array(self, values: Floats, dtype: str) -> Any:
        return self.xp.tensor(values, dtype=self.xp.float64).to(self.dtype(dtype)).to(self.device)

    def numpy(self, values: Any) -> Floats:
        return np.asarray(values.detach().to(self.xp.float64).cpu().numpy())

    def differentiate(self, f: Loss, moving: Mapping[str, Any], cotangent: Any = None) -> tuple[Any, dict[str, Any]]:
        leaves = {name: values.detach().requires_grad_(True) for name, values in moving.items()}
        value = f(leaves)
        _fits(value, cotangent)
        seed = self.xp.ones_like(value) if cotangent is None else cotangent
        gradients = self.xp.autograd.grad(value, list(leaves.values()), seed, materialize_grads=True)
        return value, dict(zip(leaves, gradients, strict=True))

    def call(self, implementation: Implementation, case: Case, mode: str) -> Numbers:
        loss = implementation.functions[case.function]
        found = super().call(implementation, case, mode) if mode == "eager" else {}
        arrays, options = self.arguments(implementation, case)

        def plain(tensors: Mapping[str, Any]) -> Any:
            return _apply(loss, tensors, options)

        run = self.compile(plain, loss, case) if mode == "torch.compile" else plain
        moving = {name: arrays[name] for name in case.wrt if name in arrays}
        if not moving:
            return found | {"value": self.numpy(run(arrays))}
        try:
            value, gradients = self.differentiate(
                lambda some: run({**arrays, **some}), moving, self.pull(case).get("cotangent")
            )
        except WrongShape as wrong:
            return {"value": self.numpy(wrong.value)}
        found["value"] = self.numpy(value)
        return found | {f"auto d {name}": self.numpy(g) for name, g in gradients.items()}

    def compile(self, plain: Loss, loss: Loss, case: Case) -> Loss:
        """Compile once for each set of options (where not `dynamic`, anew where the sizes are others)."""
        key = (*_signature(loss, case, "torch.compile"), case.arrays["logits"].ndim)
        if key not in self.compiled:
            dynamo = importlib.import_module("torch._dynamo")
            # Every option set is a graph of its own here, and each starts from the same line of code.
            dynamo.config.recompile_limit = 10_000
            dynamo.config.accumulated_recompile_limit = 100_000
            self.compiled[key] = self.xp.compile(plain, fullgraph=True, dynamic=self.dynamic or None)
        return self.compiled[key]


class _Jax(Backend):
    def missing(self) -> str | None:
        reason = super().missing()
        if reason is None and self.device == "cuda":
            try:
                self.xp.devices("cuda")
            except RuntimeError:
                return "no CUDA device"
        return reason

    @cached_property
    def xp(self) -> Any:
        return importlib.import_module("jax")

    @property
    def device(self) -> str:
        return self.name.split(":")[1]

    @property
    def differentiates(self) -> bool:
        return True

    def owns(self, values: Any) -> bool:
        if type(values).__module__.split(".")[0] not in ("jax", "jaxlib"):
            return False
        return bool(next(iter(values.devices())).platform == "cpu") == (self.device == "cpu")

    def dtype(self, name: str) -> Any:
        return getattr(self.xp.numpy, name)

    def array(self, values: Floats, dtype: str) -> Any:
        jnp = self.xp.numpy
        if dtype == "int64" and not self.xp.config.jax_enable_x64:
            dtype = "int32"
        small = values.astype(dtype) if dtype != "bfloat16" else values.astype(np.float32)
        return self.xp.device_put(jnp.asarray(small, dtype=self.dtype(dtype)), self.xp.devices(self.device)[0])

    def setting(self, *dtypes: str) -> Any:
        # Everything but float64 runs with JAX's default setting, without 64-bit types.
        return self.xp.enable_x64("float64" in dtypes)

    def differentiate(self, f: Loss, moving: Mapping[str, Any], cotangent: Any = None) -> tuple[Any, dict[str, Any]]:
        value, back = self.xp.vjp(f, dict(moving))
        _fits(value, cotangent)
        seed = self.xp.numpy.ones(value.shape, value.dtype) if cotangent is None else cotangent
        return value, back(seed)[0]

    def call(self, implementation: Implementation, case: Case, mode: str) -> Numbers:
        loss = implementation.functions[case.function]
        arrays, options = self.arguments(implementation, case)
        wrt = [name for name in case.wrt if name in arrays]
        pull = self.pull(case)

        def everything(given: dict[str, Any], cotangent: dict[str, Any]) -> dict[str, Any]:
            moving = {name: given[name] for name in wrt}
            try:
                value, gradients = self.differentiate(
                    lambda some: _apply(loss, {**given, **some}, options), moving, cotangent.get("cotangent")
                )
            except WrongShape as wrong:
                return {"value": wrong.value}
            found = {"value": value} | {f"auto d {name}": g for name, g in gradients.items()}
            if implementation.value_and_grad is not None and "target" in given and "logits" in wrt:
                both = implementation.value_and_grad(loss)
                value, gradient = _apply(both, given, {**options, **cotangent})
                found |= {"closed value": value, "closed d logits": gradient}
            return found

        run = everything
        if mode == "jax.jit":
            key = _signature(loss, case, mode)
            if key not in self.compiled:
                self.compiled[key] = self.xp.jit(everything)
            run = self.compiled[key]
        return {name: self.numpy(values) for name, values in run(arrays, pull).items()}


_ALL = ("float16", "bfloat16", "float32", "float64")


def backends() -> list[Backend]:
    """Every library known, installed or not (`missing` says which)."""
    return [
        _Numpy("numpy"),
        _Torch("torch:cpu", ("eager", "torch.compile"), _ALL),
        _Jax("jax:cpu", ("eager", "jax.jit"), _ALL),
        _Strict("array-api-strict", dtypes=("float32", "float64")),
        _Dask("dask"),
        _Torch("torch:cuda", ("eager", "torch.compile"), _ALL),
        _Jax("jax:cuda", ("eager", "jax.jit"), _ALL),
        _Cupy("cupy"),
    ]


def backend(name: str) -> Backend:
    """The backend of that name."""
    known = {one.name: one for one in backends()}
    if name not in known:
        raise ValueError(f"no array library {name!r}; there are {', '.join(known)}")
    return known[name]


def as_numpy(values: Any) -> Floats:
    """An array of any library, a number or a list of numbers, as float64."""
    for one in backends():
        if one.owns(values):
            return one.numpy(values)
    return np.asarray(values, dtype=np.float64)
