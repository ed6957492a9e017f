"""The array libraries found here: how to give them a case, in each mode, and get value and gradients back.

A gradient is had in two ways, and both are judged: `closed` is the implementation's own `value_and_grad`, on any
library; `auto` is the library's autodiff through the plain function.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from conformance.cases import Case, Reduce
from conformance.formats import Floats

Loss = Callable[..., Any]
Numbers = dict[str, Floats]
"""What came back, by quantity: `value`, `closed d logits`, `auto d logits`, `auto d target`, ..."""


@dataclass(frozen=True)
class Implementation:
    """What is judged: functions by their public name, called as `f(logits, target, /, **options)`.

    Attributes
    ----------
    functions
        Name of the function it is judged as, and the callable.
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
    """

    name: str
    functions: Mapping[str, Loss]
    value_and_grad: Callable[[Loss], Loss] | None = None
    reduction: Callable[[Reduce], Any] = str
    backends: tuple[str, ...] | None = None
    not_covered: Callable[[Case], str | None] = lambda case: None
    strict: bool = False


def arrayloss() -> Implementation:
    """The package that this suite was written beside."""
    package = importlib.import_module("arrayloss")
    from conformance.cases import FUNCTIONS

    return Implementation(
        "arrayloss",
        {name: getattr(package, name) for name in FUNCTIONS if hasattr(package, name)},
        package.value_and_grad,
        lambda reduce: getattr(package, reduce.kind)(**reduce.arguments),
        strict=True,
    )


@dataclass
class Backend:
    """One library on one device; the subclasses say how it takes arrays and differentiates."""

    name: str
    modes: tuple[str, ...] = ("eager",)
    dtypes: tuple[str, ...] = ("float16", "float32", "float64")
    compiled: dict[Any, Loss] = field(default_factory=dict)

    def missing(self) -> str | None:
        """Why it can't be run here, or None."""
        module = self.name.split(":")[0].replace("-", "_")
        try:
            importlib.import_module(module)
        except ImportError:
            return f"{module} is not installed"
        return None

    @cached_property
    def xp(self) -> Any:
        """The namespace that has `asarray` and the dtypes."""
        return importlib.import_module(self.name.split(":")[0].replace("-", "_"))

    def flushes(self, mode: str) -> bool:
        """Whether the library's compiler turns subnormal numbers into 0."""
        return False

    def dtype(self, name: str) -> Any:
        """The library's own dtype of that name."""
        return getattr(self.xp, name)

    def array(self, values: Floats, dtype: str) -> Any:
        """Bring an array over."""
        return self.xp.asarray(np.asarray(values.astype(dtype)))

    def numpy(self, values: Any) -> Floats:
        """And back."""
        return np.asarray(values).astype(np.float64)

    def setting(self, case: Case) -> Any:
        """A context in which the case must run."""
        return nullcontext()

    def evaluate(self, implementation: Implementation, case: Case, mode: str) -> Numbers:
        """Put a case to an implementation and bring back what it says."""
        with self.setting(case), _no_warnings(implementation.strict):
            return self.call(implementation, case, mode)

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


@contextmanager
def _no_warnings(strict: bool) -> Iterator[None]:
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

    def flushes(self, mode: str) -> bool:
        return mode == "torch.compile"

    def array(self, values: Floats, dtype: str) -> Any:
        return self.xp.tensor(values, dtype=self.xp.float64).to(self.dtype(dtype)).to(self.device)

    def numpy(self, values: Any) -> Floats:
        return np.asarray(values.detach().to(self.xp.float64).cpu().numpy())

    def call(self, implementation: Implementation, case: Case, mode: str) -> Numbers:
        loss = implementation.functions[case.function]
        found = super().call(implementation, case, mode) if mode == "eager" else {}
        arrays, options = self.arguments(implementation, case)
        for name in case.wrt:
            if name in arrays:
                arrays[name].requires_grad_(True)

        def plain(tensors: Mapping[str, Any]) -> Any:
            return _apply(loss, tensors, options)

        value = (self.compile(plain, loss, case) if mode == "torch.compile" else plain)(arrays)
        found["value"] = self.numpy(value)
        wrt = [name for name in case.wrt if name in arrays]
        if wrt and value.requires_grad:
            cotangent = self.pull(case).get("cotangent")
            gradients = self.xp.autograd.grad(value, [arrays[n] for n in wrt], cotangent, materialize_grads=True)
            found.update({f"auto d {n}": self.numpy(g) for n, g in zip(wrt, gradients, strict=True)})
        return found

    def compile(self, plain: Loss, loss: Loss, case: Case) -> Loss:
        """Compile once for each set of options; sizes are dynamic, so that one graph serves many cases."""
        key = (*_signature(loss, case, "torch.compile"), case.arrays["logits"].ndim)
        if key not in self.compiled:
            dynamo = importlib.import_module("torch._dynamo")
            # Every option set is a graph of its own here, and each starts from the same line of code.
            dynamo.config.recompile_limit = 10_000
            dynamo.config.accumulated_recompile_limit = 100_000
            self.compiled[key] = self.xp.compile(plain, fullgraph=True, dynamic=True)
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

    def flushes(self, mode: str) -> bool:
        return True  # every operation goes through XLA

    def dtype(self, name: str) -> Any:
        return getattr(self.xp.numpy, name)

    def array(self, values: Floats, dtype: str) -> Any:
        jnp = self.xp.numpy
        if dtype == "int64" and not self.xp.config.jax_enable_x64:
            dtype = "int32"
        small = values.astype(dtype) if dtype != "bfloat16" else values.astype(np.float32)
        return self.xp.device_put(jnp.asarray(small, dtype=self.dtype(dtype)), self.xp.devices(self.device)[0])

    def setting(self, case: Case) -> Any:
        # Everything but float64 runs as JAX comes, without 64-bit types.
        return self.xp.enable_x64("float64" in (case.dtype, case.result_dtype))

    def call(self, implementation: Implementation, case: Case, mode: str) -> Numbers:
        loss = implementation.functions[case.function]
        arrays, options = self.arguments(implementation, case)
        wrt = [name for name in case.wrt if name in arrays]
        pull = self.pull(case)

        def everything(given: dict[str, Any], cotangent: dict[str, Any]) -> dict[str, Any]:
            moving = {name: given[name] for name in wrt}
            value, back = self.xp.vjp(lambda some: _apply(loss, {**given, **some}, options), moving)
            found = {"value": value}
            if wrt:
                one = cotangent.get("cotangent", self.xp.numpy.ones(value.shape, value.dtype))
                found |= {f"auto d {name}": g for name, g in back(one)[0].items()}
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
    """Every backend known to the suite, here or not."""
    return [
        Backend("numpy"),
        _Torch("torch:cpu", ("eager", "torch.compile"), _ALL),
        _Jax("jax:cpu", ("eager", "jax.jit"), _ALL),
        Backend("array-api-strict", dtypes=("float32", "float64")),
        _Dask("dask"),
        _Torch("torch:cuda", ("eager", "torch.compile"), _ALL),
        _Jax("jax:cuda", ("eager", "jax.jit"), _ALL),
        _Cupy("cupy"),
    ]


def versions() -> dict[str, str]:
    """The versions of everything that a result depends on."""
    names = (
        "arrayloss",
        "numpy",
        "torch",
        "jax",
        "array-api-compat",
        "array-api-strict",
        "dask",
        "cupy",
        "python-flint",
    )
    found = {}
    for name in (*names, "optax", "scipy", "scikit-learn", "keras", "dpnp", "ndonnx", "onnxruntime"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
