"""One fixture, `backend`: every array library and device the tests run on.

One that is missing is skipped with its reason. A test marked `compiled` runs once more per library that
compiles (jax.jit, torch.compile); `backend.jit` is the compiler there and the identity elsewhere, so that the
test reads the same.
"""

import contextlib
import dataclasses
import importlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("arrayloss", deadline=None, derandomize=True, max_examples=10, database=None)
settings.load_profile("arrayloss")

STRICT = ["CPU_DEVICE", "device1", "device2", "no_float64", "no_x64", "strictest"]
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


@dataclasses.dataclass
class Backend:
    name: str
    library: str
    xp: Any
    device: Any
    compiled: bool
    has_float64: bool = True
    has_int64: bool = True
    skips_eager_autodiff: bool = False

    @property
    def on_cpu(self) -> bool:
        return self.library in ("numpy", "torch", "jax", "array-api-strict") and "cuda" not in self.name

    @property
    def reports_labels(self) -> bool | None:
        """Whether a label out of range is a ValueError (True), NaN (False), or either (None).

        array-api-strict's other devices stand for accelerators as much as for the CPU they are.
        """
        if self.library == "array-api-strict":
            return True if self.device == self.xp.Device("CPU_DEVICE") else None
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
        if self.library != "array-api-strict":
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

        # aot_eager traces forward and backward as inductor does and runs them without generating code: the
        # same semantics at a tenth of the time. test_autodiff_torch.py has the inductor cases.
        return torch.compile(f, fullgraph=True, backend="aot_eager")

    def pullback(self, f: Callable[..., Any], x: Any, *args: Any, cotangent: Any = None) -> tuple[Any, Any]:
        """f at x, and the library's own derivative of it, pulled back from the cotangent (or ones)."""
        if self.library == "torch":
            x = x.detach().clone().requires_grad_()
            y = self.jit(f)(x, *args)
            seed = self.xp.ones_like(y) if cotangent is None else cotangent
            (gradient,) = self.xp.autograd.grad(y, x, seed)
            return y, gradient
        import jax

        def both(x: Any, *args: Any) -> tuple[Any, Any]:
            y, pull = jax.vjp(lambda x: f(x, *args), x)
            return y, pull(self.xp.ones_like(y) if cotangent is None else cotangent)[0]

        return self.jit(both)(x, *args)

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

        value, gradient = self.jit(closed)(x, t, *seed, *arrays)
        out = {
            "call": (self.to_numpy(self.jit(plain)(x, t, *arrays)), None),
            "closed form": (self.to_numpy(value), self.to_numpy(gradient)),
        }
        if self.differentiates and not self.skips_eager_autodiff:
            value, gradient = self.pullback(plain, x, t, *arrays, cotangent=seed[0] if seed else None)
            out["autodiff"] = (self.to_numpy(value), self.to_numpy(gradient))
        return out

    def sample_shape(self, loss: Callable[..., Any], x: Any, options: dict[str, Any]) -> tuple[int, ...]:
        shape = list(x.shape)
        if loss.__name__ in ("cross_entropy", "nll_loss", "softmax_focal_loss", "poly_loss", "kl_divergence"):
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


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "compiled: run once more per library that compiles")
    config.addinivalue_line("markers", "autodiff: run only where the library differentiates")
    # torch.compile's own import of its own deprecated parts (torch 2.13), which "error" would make our
    # failure.
    config.addinivalue_line("filterwarnings", "ignore:.*torch.jit.script:DeprecationWarning")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        marked = {mark.name for mark in metafunc.definition.iter_markers()}
        params = EAGER + (COMPILED if "compiled" in marked else [])
        if "autodiff" in marked:
            params = [name for name in params if name.startswith(("torch", "jax"))]
        metafunc.parametrize("backend", params, indirect=True)


def _module(library: str) -> ModuleType:
    try:
        return importlib.import_module(MODULES[library])
    except ImportError as reason:
        pytest.skip(f"{library} is not installed: {reason}")


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    name: str = request.param
    library, *rest = name.split(":")
    compiled = rest[-1:] in (["compile"], ["jit"])
    xp = _module(library)
    with contextlib.ExitStack() as stack:
        device: Any = None
        if library == "numpy":
            device = "cpu"
        elif library == "torch":
            if rest[0] == "cuda" and not xp.cuda.is_available():
                pytest.skip("torch sees no CUDA device")
            device = xp.device(rest[0], 0) if rest[0] == "cuda" else xp.device("cpu")
            if compiled:
                # Each test compiles its own closures; without this, code objects shared between tests would
                # run into dynamo's limit of recompiles, which fullgraph=True makes an error.
                importlib.import_module("torch._dynamo").reset()
        elif library == "jax":
            import jax

            try:
                device = jax.devices(rest[0])[0]
            except RuntimeError as reason:
                pytest.skip(f"jax sees no {rest[0]} device: {str(reason).splitlines()[0]}")
            stack.enter_context(jax.enable_x64(True))
        elif library == "cupy":
            try:
                device = xp.cuda.Device(0)
                device.compute_capability  # noqa: B018  asks the driver, and raises where there is none
            except Exception as reason:
                pytest.skip(f"cupy sees no CUDA device: {reason}")
        elif library == "array-api-strict":
            if rest[0] == "strictest":
                flags = xp.ArrayAPIStrictFlags(
                    boolean_indexing=False, data_dependent_shapes=False, enabled_extensions=()
                )
                stack.enter_context(flags)
            if rest[0] not in ("strictest", *_device_names(xp)):
                pytest.skip(f"this array-api-strict has no device {rest[0]}")
            # NumPy warns from inside array-api-strict, which has no way of its own to ask it not to.
            stack.enter_context(np.errstate(all="ignore"))
            device = xp.Device("CPU_DEVICE" if rest[0] == "strictest" else rest[0])
        yield Backend(
            name=name,
            library=library,
            xp=xp,
            device=device,
            compiled=compiled,
            has_float64=not name.endswith(("no_float64", "no_x64")),
            has_int64=not name.endswith("no_x64"),
            # JAX dispatches eager autodiff one primitive at a time, a second of compiling per new shape: where
            # the test runs under jit as well, it is left to that.
            skips_eager_autodiff=name == "jax:cpu" and bool(request.node.get_closest_marker("compiled")),
        )


def _device_names(xp: Any) -> list[str]:
    return [repr(d).split("'")[1] for d in xp.__array_namespace_info__().devices()]


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
