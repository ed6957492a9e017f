"""The originals and the presets, run on the same numbers: `lib` is the array library that the preset gets."""

import dataclasses
import importlib
import inspect
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

# Keras reads both when it is imported, and writes a file to the second.
os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("KERAS_HOME", tempfile.mkdtemp(prefix="keras-home-"))

EPS = np.finfo(np.float64).eps


def by_torch(f: Callable[..., Any], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f(x) and the gradient of its sum, weighed 1, 2, ..., by torch's autograd."""
    import torch

    leaf = torch.tensor(x, requires_grad=True)
    y = f(leaf)
    (gradient,) = torch.autograd.grad(y, leaf, torch.arange(1, y.numel() + 1, dtype=y.dtype).reshape(y.shape))
    return y.detach().numpy(), gradient.numpy()


def by_jax(f: Callable[..., Any], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same by JAX."""
    import jax
    import jax.numpy as jnp

    y, pull = jax.vjp(f, jnp.asarray(x))
    return np.asarray(y), np.asarray(pull(jnp.arange(1, y.size + 1, dtype=y.dtype).reshape(y.shape))[0])


@dataclasses.dataclass
class Lib:
    name: str
    xp: Any

    def array(self, x: Any) -> Any:
        if not isinstance(x, np.ndarray):
            return x
        return self.xp.tensor(x) if self.name == "torch" else self.xp.asarray(x.copy())

    def run(self, f: Callable[..., Any], x: np.ndarray, *args: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """f(x, *args) and its gradient, the arrays moved to this library; NumPy has a value only."""
        given = [self.array(a) for a in args]
        if self.name == "numpy":
            return np.asarray(f(x, *given)), None
        return (by_torch if self.name == "torch" else by_jax)(lambda x: f(x, *given), x)

    def agree(
        self,
        f: Callable[..., Any],
        x: np.ndarray,
        args: tuple[Any, ...],
        expected: tuple[np.ndarray, np.ndarray | None],
        *,
        note: object = "",
        rtol: float = 1e-12,
    ) -> None:
        """Value and gradient of f equal the original's, but for the digits that it loses: some eps of the logits."""
        value, gradient = self.run(f, x, *args)
        value0, gradient0 = expected
        span = np.max(np.abs(x[np.isfinite(x)]), initial=1.0)
        np.testing.assert_allclose(
            value, value0, rtol=rtol, atol=8 * EPS * span * max(value0.size, 1), err_msg=f"{note}"
        )
        if gradient is not None and gradient0 is not None:
            top = np.max(np.abs(gradient0[np.isfinite(gradient0)]), initial=1.0)
            np.testing.assert_allclose(gradient, gradient0, rtol=rtol, atol=64 * EPS * top, err_msg=f"gradient {note}")


def _lib(name: str) -> Iterator[Lib]:
    xp = pytest.importorskip(name, reason=f"{name} is not installed")
    if name != "jax":
        yield Lib(name, xp)
        return
    with xp.enable_x64(True):
        yield Lib(name, importlib.import_module("jax.numpy"))


@pytest.fixture(params=["numpy", "torch", "jax"])
def lib(request: pytest.FixtureRequest) -> Iterator[Lib]:
    yield from _lib(request.param)


@pytest.fixture
def originals() -> Iterator[dict[str, Callable[..., Any]]]:
    """How the originals of torch and of JAX are run, in 64 bits."""
    ways: dict[str, Callable[..., Any]] = {"torch": by_torch, "jax": by_jax}
    try:
        import jax
    except ImportError:
        yield ways
        return
    with jax.enable_x64(True):
        yield ways


@pytest.fixture
def same_signature() -> Callable[..., None]:
    def check(ours: Callable[..., Any], original: Callable[..., Any], ignore: tuple[str, ...] = ()) -> None:
        """The same names in the same order, of the same kinds, with the same defaults."""
        signatures = [
            [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values() if p.name not in ignore]
            for f in (ours, original)
        ]
        assert signatures[0] == signatures[1]

    return check
