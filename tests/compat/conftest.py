"""The originals and the presets, run on the same numbers: `lib` is the array library that the preset gets.

`python -m pytest -n 0 tests/compat --matrix results/porting.md` writes down how far apart the two are.
"""

import collections
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import inspect
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Keras reads both when it is imported, and writes a file to the second.
os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("KERAS_HOME", tempfile.mkdtemp(prefix="keras-home-"))

EPS = np.finfo(np.float64).eps


@dataclasses.dataclass
class Cell:
    """What was compared of one preset function on one library."""

    cases: int = 0
    value: float = 0.0
    gradient: float | None = None


CELLS: collections.defaultdict[tuple[str, str], Cell] = collections.defaultdict(Cell)
OPTIONS: collections.defaultdict[str, set[str]] = collections.defaultdict(set)


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, in terms of the largest number or 1; what is not finite is the same in both."""
    finite = np.isfinite(theirs)
    apart = np.abs(ours - theirs)[finite].max(initial=0.0)
    return float(apart / np.abs(theirs[finite]).max(initial=1.0))


def record(of: str, library: str, options: Iterable[str], *pairs: tuple[np.ndarray, np.ndarray]) -> None:
    """Of the function `of`, compared with these options: the values, and the gradients where there are some."""
    OPTIONS[of].update(options)
    cell = CELLS[of, library]
    cell.cases += 1
    cell.value = max(cell.value, distance(*pairs[0]))
    if len(pairs) > 1:
        cell.gradient = max(cell.gradient or 0.0, distance(*pairs[1]))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--matrix", metavar="FILE", help="write how far the presets are from the originals (with -n 0)")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    path = config.getoption("matrix", None)
    if path is None:
        return
    libraries = sorted({library for _, library in CELLS})
    names = ("torch", "torchvision", "optax", "keras", "scikit-learn", "onnx", "jax", "numpy")
    installed = {d.name: d.version for d in importlib.metadata.distributions()}
    lines = [
        "# The presets and the originals",
        "",
        f"{datetime.date.today()}; "
        + ", ".join(f"{name} {installed.get(name, '(not installed)')}" for name in names)
        + ". For each function and library: the largest difference between the preset and the original, of a value / "
        "of a gradient (by autodiff), over all cases. A difference is divided by the largest number of its array, or "
        "by 1 if that is larger. The arrays are of float64; ONNX's data and, on JAX, Keras's means are of float32.",
        "",
        f"| function | options | cases | {' | '.join(libraries)} |",
        f"|{' --- |' * (3 + len(libraries))}",
    ]
    for of, options in sorted(OPTIONS.items()):
        cells = [CELLS.get((of, library)) for library in libraries]
        texts = [
            "" if c is None else f"{c.value:.0e}" + ("" if c.gradient is None else f" / {c.gradient:.0e}")
            for c in cells
        ]
        cases = sum(c.cases for c in cells if c)
        lines.append(f"| {of} | {', '.join(sorted(options))} | {cases} | {' | '.join(texts)} |")
    passed, failed, skipped = (
        sum("test_node[" in report.nodeid for report in terminalreporter.stats.get(outcome, []))
        for outcome in ("passed", "failed", "skipped")
    )
    lines += ["", f"ONNX's own node tests: {passed} passed of {passed + failed}, {skipped} skipped (no such library)."]
    Path(path).write_text("\n".join(lines) + "\n")
    terminalreporter.write_line(f"{lines[-1]} The matrix is in {path}.")


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

    def few(self, choices: Iterable[Any]) -> list[Any]:
        """The choices; on JAX, which compiles each operation of each derivative, the first alone."""
        return list(choices)[: 1 if self.name == "jax" else None]

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
        of: str,
        options: Iterable[str] = (),
        note: object = "",
        rtol: float = 1e-12,
    ) -> None:
        """Value and gradient of f equal the original's, but for the digits that it loses: some eps of the logits."""
        value, gradient = self.run(f, x, *args)
        value0, gradient0 = expected
        gradients = [] if gradient is None or gradient0 is None else [(gradient, gradient0)]
        record(of, self.name, options, (value, value0), *gradients)
        span = np.max(np.abs(x[np.isfinite(x)]), initial=1.0)
        np.testing.assert_allclose(
            value, value0, rtol=rtol, atol=8 * EPS * span * max(value0.size, 1), err_msg=f"{note}"
        )
        for gradient, gradient0 in gradients:
            top = np.max(np.abs(gradient0[np.isfinite(gradient0)]), initial=1.0)
            np.testing.assert_allclose(gradient, gradient0, rtol=rtol, atol=64 * EPS * top, err_msg=f"gradient {note}")


@pytest.fixture(params=[name for name in ("numpy", "torch", "jax") if importlib.util.find_spec(name)])
def lib(request: pytest.FixtureRequest) -> Iterator[Lib]:
    name: str = request.param
    xp = importlib.import_module(name)
    if name != "jax":
        yield Lib(name, xp)
        return
    with xp.enable_x64(True):
        yield Lib(name, importlib.import_module("jax.numpy"))


@pytest.fixture(name="record")
def record_() -> Callable[..., None]:
    return record


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
