"""One fixture, `backend`: every array library and device that is here.

- A backend that is not here is not collected; one line at the end of the report names them, each with its reason.
- A test marked `compiled` runs once more with each compiler (jax.jit, torch.compile). `backend.jit` is that compiler,
  and does nothing elsewhere, so that the test reads the same.
- A test marked `only(condition)` is collected where the condition holds. The condition takes the test's parameters by
  name: `only(lambda backend, dtype: dtype in backend.floats)`.
"""

import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import inspect
import itertools
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("arrayloss", deadline=None, derandomize=True, max_examples=10, database=None)
settings.load_profile("arrayloss")

# The imitation of CuPy is for processes of its own: to look for doctests in it would import it.
collect_ignore = ["standin"]

# Eager JAX compiles each operation for each shape, and jax.jit each program: that took more of the tests' time than
# anything else. So XLA leaves its optimisations out, here and in the processes that tests start, and makes code in a
# third of the time. Nothing is lost: these tests are about behaviour. Digits are judged by `python -m conformance`,
# with the compiler that users get; a test about the code itself has that one by the fixture `users_compiler`.
WITHOUT_OPTIMISATIONS = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_cpu_use_fusion_emitters": False,
    "xla_llvm_disable_expensive_passes": True,
}
USERS_COMPILER = {
    "xla_backend_optimization_level": 3,
    "xla_cpu_use_fusion_emitters": True,
    "xla_llvm_disable_expensive_passes": False,
}


def _compile_quickly() -> None:
    """For the versions that are known to have these flags: XLA ends the process at one that it does not know."""
    given = os.environ.get("XLA_FLAGS", "")
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        known = importlib.metadata.version("jaxlib").startswith("0.10.")
        if known and not any(name in given for name in WITHOUT_OPTIMISATIONS):  # as where pytest-xdist starts this one
            flags = [f"--{name}={str(value).lower()}" for name, value in WITHOUT_OPTIMISATIONS.items()]
            os.environ["XLA_FLAGS"] = " ".join([given, *flags]).strip()


_compile_quickly()

# array-api-strict: the CPU with everything optional switched off, another device, one without float64, and one
# without int64 either.
STRICT = ["strictest", "device1", "no_float64", "no_x64"]
EAGER = [
    *("numpy", "torch:cpu", "torch:cuda", "jax:cpu", "jax:cuda", "cupy", "dask"),
    *(f"array-api-strict:{device}" for device in STRICT),
]
COMPILED = ["torch:cpu:compile", "torch:cuda:compile", "jax:cpu:jit", "jax:cuda:jit"]
MODULES = {
    "numpy": "array_api_compat.numpy",
    "torch": "torch",
    "jax": "jax.numpy",
    "cupy": "cupy",
    "dask": "dask.array",
    "array-api-strict": "array_api_strict",
}
COMPILATIONS: dict[tuple[Any, ...], Callable[..., Any]] = {}
MODULES_DONE = itertools.count(1)


@dataclasses.dataclass
class Backend:
    """An array library on a device, eager or compiled. A condition of `only` has no `xp` and no `device` yet."""

    name: str
    xp: Any = None
    device: Any = None

    @property
    def library(self) -> str:
        return self.name.partition(":")[0]

    @property
    def compiled(self) -> bool:
        return self.name.endswith((":compile", ":jit"))

    @property
    def has_float64(self) -> bool:
        return not self.name.endswith(("no_float64", "no_x64"))

    @property
    def has_int64(self) -> bool:
        return not self.name.endswith("no_x64")

    @property
    def is_quick(self) -> bool:
        """Not so where each operation is compiled for each shape (JAX), or is a part of a graph (Dask)."""
        return self.library not in ("jax", "dask") and not self.compiled

    @property
    def on_cpu(self) -> bool:
        return self.library in ("numpy", "torch", "jax", "array-api-strict") and "cuda" not in self.name

    @property
    def reports_labels(self) -> bool | None:
        """Whether a label out of range is a ValueError (True), NaN (False), or either (None).

        array-api-strict's other devices stand for accelerators as much as for the CPU they are.
        """
        if self.library == "array-api-strict":
            return True if self.name.endswith("strictest") else None
        return self.on_cpu and not self.compiled

    @property
    def differentiates(self) -> bool:
        return self.library in ("torch", "jax")

    @property
    def default(self) -> str:
        return "float64" if self.has_float64 else "float32"

    @property
    def floats(self) -> list[str]:
        names = ["float32"]
        if self.library != "array-api-strict" and not (self.library == "jax" and self.on_cpu and no_float16()):
            names.append("float16")
        if self.library in ("torch", "jax"):
            names.append("bfloat16")
        if self.has_float64:
            names.append("float64")
        return names

    def rtol(self, dtype: str | None = None) -> float:
        return {"float64": 1e-12, "float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}[dtype or self.default]

    def dtype(self, name: str) -> Any:
        if self.library in ("numpy", "dask", "cupy"):
            return np.dtype(name)
        return getattr(self.xp, "bool_" if name == "bool" and not hasattr(self.xp, "bool") else name)

    def asarray(self, x: Any, dtype: str | None = None) -> Any:
        """A fresh array on this backend; floats become its default float, unless dtype says another."""
        x = np.asarray(x)
        if dtype is None:
            dtype = self.default if x.dtype.kind == "f" else "bool" if x.dtype.kind == "b" else str(x.dtype)
            if dtype == "int64" and not self.has_int64:
                dtype = "int32"
        if self.library == "torch":
            return self.xp.tensor(x, dtype=self.dtype(dtype), device=self.device)
        if self.library == "dask":
            # Two chunks along the samples, one along everything else.
            chunks = (max(1, -(-x.shape[0] // 2)), *x.shape[1:]) if x.ndim else ()
            return self.xp.from_array(np.array(x, dtype=dtype), chunks=chunks)
        if self.library == "cupy":
            return self.xp.asarray(x, dtype=dtype)
        if self.library == "jax":
            import jax

            return jax.device_put(self.xp.array(x, dtype=self.dtype(dtype)), self.device)
        return self.xp.asarray(x.copy(), dtype=self.dtype(dtype), device=self.device)

    def to_numpy(self, x: Any) -> np.ndarray:
        """As float64 (or bool, or int), whatever the half type was."""
        if self.library == "torch":
            x = x.detach().cpu()
            return np.asarray(x.double() if x.is_floating_point() else x)
        if self.library == "array-api-strict":
            x = x.to_device(self.xp.Device("CPU_DEVICE"))
        if self.library == "dask":
            x = x.compute()
        if self.library == "cupy":
            x = x.get()
        x = np.asarray(x)
        return x if x.dtype.kind in "biu" else x.astype(np.float64)

    def dtype_name(self, x: Any) -> str:
        return str(x.dtype).removeprefix("torch.").removeprefix("array_api_strict.")

    def device_of(self, x: Any) -> Any:
        if self.library == "dask":
            return None
        return next(iter(x.devices())) if self.library == "jax" else x.device

    def jit(self, f: Callable[..., Any]) -> Callable[..., Any]:
        if not self.compiled:
            return f
        if self.library == "jax":
            import jax

            return jax.jit(f)
        import torch

        # Dynamo's part: the whole function is one graph, forward and backward, whatever the arguments hold. What comes
        # after it makes other code of the same operations and takes most of the time: see test_autodiff_torch.py.
        # What is compiled, and which lengths it takes for dynamic, is kept with the code, which closures share: so a
        # copy of it.
        if isinstance(f, types.FunctionType) and f.__closure__:
            f = types.FunctionType(f.__code__.replace(), f.__globals__, f.__name__, f.__defaults__, f.__closure__)
        return torch.compile(f, fullgraph=True, backend="eager")

    def once(self, key: tuple[Any, ...], f: Callable[..., Any]) -> Callable[..., Any]:
        """`f` compiled, and the same compiled function again for the same key: one for many tests and inputs."""
        if not self.compiled:
            return f
        if (self.name, *key) not in COMPILATIONS:
            COMPILATIONS[self.name, *key] = self.jit(f)
        return COMPILATIONS[self.name, *key]

    def pullback(
        self, f: Callable[..., Any], x: Any, *args: Any, cotangent: Any = None, key: Any = None
    ) -> tuple[Any, Any]:
        """f at x, and the library's own derivative of it, pulled back from the cotangent (or ones)."""
        if self.library == "torch":
            x = x.detach().clone().requires_grad_()
            y = self.once(key or (f,), f)(x, *args)
            seed = self.xp.ones_like(y) if cotangent is None else cotangent
            (gradient,) = self.xp.autograd.grad(y, x, seed)
            return y, gradient
        import jax

        def both(x: Any, seed: Any, *args: Any) -> tuple[Any, Any]:
            y, pull = jax.vjp(lambda x: f(x, *args), x)
            return y, pull(self.xp.ones_like(y) if seed is None else seed)[0]

        return self.once(("derivative", *(key or (f,))), both)(x, cotangent, *args)

    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        """The same options with their NumPy arrays moved here."""
        return {k: self.asarray(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}

    def evaluate(
        self, loss: Callable[..., Any], logits: Any, target: Any, *, cotangent: Any = None, **options: Any
    ) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
        """(value, gradient) by every way there is: a plain call, the closed form, the library's autodiff.

        Arrays among the options are traced as arguments, not baked in as constants.
        """
        from arrayloss import value_and_grad

        x = logits if not isinstance(logits, np.ndarray) else self.asarray(logits)
        t = target if not isinstance(target, np.ndarray) else self.asarray(target)
        moved = self.options(options)
        names = [k for k, v in options.items() if isinstance(v, np.ndarray)]
        arrays = [moved.pop(k) for k in names]
        seed: list[Any] = []
        if options.get("reduction") == "none":
            like = np.ones(self.sample_shape(loss, x, options))
            seed = [self.asarray(like if cotangent is None else cotangent, self.dtype_name(x))]

        def plain(x: Any, t: Any, *arrays: Any) -> Any:
            return loss(x, t, **moved, **dict(zip(names, arrays, strict=True)))

        def closed(x: Any, t: Any, *rest: Any) -> Any:
            extra = {"cotangent": rest[0]} if seed else {}
            given = dict(zip(names, rest[len(seed) :], strict=True))
            return value_and_grad(loss)(x, t, **moved, **given, **extra)

        key = (loss, repr(moved), *names)
        value, gradient = self.once(("closed form", *key), closed)(x, t, *seed, *arrays)
        out = {"closed form": (self.to_numpy(value), self.to_numpy(gradient))}
        if not self.compiled:  # where the value of the derivative is the call's
            out["call"] = self.to_numpy(plain(x, t, *arrays)), None
        # Eagerly, JAX compiles each primitive for each shape: 3 s for one derivative. It is left to jax.jit, and to
        # test_autodiff_jax.py.
        if self.differentiates and self.name != "jax:cpu":
            cotangent = seed[0] if seed else None
            value, gradient = self.pullback(plain, x, t, *arrays, cotangent=cotangent, key=key)
            out["autodiff"] = (self.to_numpy(value), self.to_numpy(gradient))
        return out

    def sample_shape(self, loss: Callable[..., Any], x: Any, options: dict[str, Any]) -> tuple[int, ...]:
        shape = list(x.shape)
        if loss.__name__ in (
            "cross_entropy",
            "nll_loss",
            "softmax_focal_loss",
            "poly_loss",
            "generalized_cross_entropy",
            "symmetric_cross_entropy",
            "kl_divergence",
            "kl_divergence_with_logits",
            "js_divergence",
            "js_divergence_with_logits",
        ):
            del shape[options.get("axis", -1)]
        return tuple(shape)

    def agree(
        self,
        loss: Callable[..., Any],
        logits: Any,
        target: Any,
        value: Any,
        gradient: Any,
        *,
        rtol: float | None = None,
        cotangent: Any = None,
        **options: Any,
    ) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
        """Assert value and gradient by every way there is; the gradient to rtol of its largest entry."""
        rtol = rtol or self.rtol()
        got = self.evaluate(loss, logits, target, cotangent=cotangent, **options)
        for way, (v, g) in got.items():
            np.testing.assert_allclose(v, value, rtol=rtol, atol=0, err_msg=f"value, {way}, {self.name}")
            if g is not None:
                finite = np.abs(gradient)[np.isfinite(gradient)]
                # A gradient entry is a difference p - q wherever the target is soft: measure against the
                # larger.
                atol = rtol * (finite.max() if finite.size else 0.0)
                np.testing.assert_allclose(g, gradient, rtol=rtol, atol=atol, err_msg=f"gradient, {way}, {self.name}")
        return got


NOT_HERE: dict[str, str] = {}


@functools.cache
def missing(name: str) -> str | None:
    """Why a backend can't be run here, or None where it can."""
    library, place, *_ = [*name.split(":"), ""]
    try:
        xp: Any = importlib.import_module(MODULES[library])
    except ImportError as reason:
        return f"{library} is not installed: {reason}"
    try:
        if library == "cupy":
            xp.cuda.Device(0).compute_capability  # noqa: B018  asks the driver, and raises where there is none
        elif library == "jax":
            importlib.import_module("jax").devices(place)
        elif library == "array-api-strict" and place != "strictest":
            xp.Device(place)
        elif place == "cuda" and not xp.cuda.is_available():
            return "torch sees no CUDA device"
    except Exception as reason:
        return str(reason).splitlines()[0]
    return None


@functools.cache
def no_float16() -> str:
    """Why XLA compiles no float16 for this CPU (it has no code of its own for one without F16C), or nothing."""
    jax = importlib.import_module("jax")
    try:
        jax.jit(lambda x: x.astype("float32") * 3)(jax.numpy.ones(3, "float16"))
    except jax.errors.JaxRuntimeError as reason:
        return str(reason).splitlines()[0]
    return ""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "compiled: run once more with each compiler")
    config.addinivalue_line("markers", "autodiff: run only where the library differentiates")
    config.addinivalue_line("markers", "only(condition): collect only where the condition on the parameters holds")
    # torch.compile's own import of its own deprecated parts (torch 2.13), which "error" would make our
    # failure.
    config.addinivalue_line("filterwarnings", "ignore:.*torch.jit.script:DeprecationWarning")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" not in metafunc.fixturenames:
        return
    marked = {mark.name for mark in metafunc.definition.iter_markers()}
    NOT_HERE.update({name: reason for name in EAGER if (reason := missing(name))})
    if missing("jax:cpu") is None and no_float16():
        NOT_HERE["jax:cpu float16"] = no_float16()
    names = [name for name in EAGER + (COMPILED if "compiled" in marked else []) if missing(name) is None]
    if "autodiff" in marked:
        names = [name for name in names if name.startswith(("torch", "jax"))]
    metafunc.parametrize("backend", [Backend(name) for name in names], ids=names, indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if all(_holds(mark.args[0], item) for mark in item.iter_markers("only"))]


def _holds(condition: Callable[..., bool], item: Any) -> bool:
    return condition(**{name: item.callspec.params[name] for name in inspect.signature(condition).parameters})


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # a process of pytest-xdist's
        session.config.workeroutput["not here"] = NOT_HERE


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    NOT_HERE.update(getattr(node, "workeroutput", {}).get("not here", {}))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if NOT_HERE:
        said = "; ".join(f"{name} ({reason})" for name, reason in NOT_HERE.items())
        terminalreporter.write_line(f"not run here: {said}")


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    one: Backend = request.param
    xp: Any = importlib.import_module(MODULES[one.library])
    place = one.name.split(":")[1] if ":" in one.name else ""
    with contextlib.ExitStack() as stack:
        device: Any = None
        if one.library == "numpy":
            device = "cpu"
        elif one.library == "torch":
            device = xp.device(place, 0) if place == "cuda" else xp.device("cpu")
        elif one.library == "jax":
            jax = importlib.import_module("jax")
            device = jax.devices(place)[0]
            stack.enter_context(jax.enable_x64(True))
        elif one.library == "cupy":
            device = xp.cuda.Device(0)
        elif one.library == "array-api-strict":
            if place == "strictest":
                flags = xp.ArrayAPIStrictFlags(
                    boolean_indexing=False, data_dependent_shapes=False, enabled_extensions=()
                )
                stack.enter_context(flags)
            # NumPy warns from inside array-api-strict, which has no way of its own to ask it not to.
            stack.enter_context(np.errstate(all="ignore"))
            device = xp.Device("CPU_DEVICE" if place == "strictest" else place)
        yield dataclasses.replace(one, xp=xp, device=device)


@pytest.fixture(scope="module", autouse=True)
def _programs_are_forgotten() -> Iterator[None]:
    """After some modules, all that was compiled, which would take gigabytes in the end; few modules share programs."""
    yield
    if next(MODULES_DONE) % 4 == 0:
        COMPILATIONS.clear()
        if "jax" in sys.modules:
            sys.modules["jax"].clear_caches()
        if "torch._dynamo" in sys.modules:
            sys.modules["torch._dynamo"].reset()


@pytest.fixture
def users_compiler() -> dict[str, Any]:
    """`compiler_options` of jax.jit: XLA as it comes, not as `_compile_quickly` has it."""
    return USERS_COMPILER if all(name in os.environ.get("XLA_FLAGS", "") for name in USERS_COMPILER) else {}


@contextlib.contextmanager
def _needing_a_compiler() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if "C++ compiler" in str(error) or "InvalidCxxCompiler" in str(error):
            pytest.skip("inductor finds no C++ compiler here")
        raise


@pytest.fixture
def needing_a_compiler() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Within it, skip where inductor, which generates C++, finds no compiler."""
    return _needing_a_compiler
