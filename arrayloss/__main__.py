"""What is installed, and which array libraries work, on which devices: put the output into a bug report.

For each installed array library, the cross-entropy of two rows and its gradient are computed, and compared with the
exact numbers.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import numpy as np

import arrayloss
from arrayloss.testing import Backend, Case, Implementation, backends

PACKAGES = {
    "array API": ("array-api-compat", "array-api-strict"),
    "training": ("optax", "flax", "keras", "torchvision", "scikit-learn", "xgboost", "lightgbm"),
    "conformance": ("arrayloss-conformance", "python-flint", "ml-dtypes", "rich"),
}
CASE = Case(
    "cross_entropy",
    family="",
    name="",
    dtype="float32",
    arrays={"logits": np.asarray([[math.log(3), 0.0], [0.0, 0.0]]), "target": np.asarray([0.0, 1.0])},
    options={"reduction": "sum"},
    target_kind="index",
    wrt=("logits",),
)
VALUE = math.log(8 / 3)  # -log(3/4) - log(1/2)
GRADIENT = np.asarray([[-0.25, 0.25], [0.5, -0.5]])  # softmax - one-hot


class Found(NamedTuple):
    """One line of the report: a library on a device, eager or compiled."""

    name: str
    version: str
    result: str

    @property
    def wrong(self) -> bool:
        """Whether the library is installed and does not work."""
        return self.result != "ok" and not self.result.startswith("not here")


def main(arguments: list[str] | None = None) -> int:
    """Print the report; return 1 if an installed library gives a wrong number or an error, else 0."""
    parser = argparse.ArgumentParser(prog="python -m arrayloss", description=__doc__)
    parser.add_argument("--compile", action="store_true", help="also with torch.compile and jax.jit (up to a minute)")
    asked = parser.parse_args(arguments)
    threads = os.environ.get("OMP_NUM_THREADS")
    print(f"arrayloss {arrayloss.__version__}, from {os.path.dirname(arrayloss.__file__)}")
    print(f"Python {platform.python_version()}, {platform.platform()}, {platform.machine()}")
    print(f"{os.cpu_count()} processors, {f'OMP_NUM_THREADS={threads}' if threads else 'OMP_NUM_THREADS is not set'}")
    for title, packages in PACKAGES.items():
        here = [f"{name} {installed}" for name in packages if (installed := _version(name))]
        print(f"{title}: {', '.join(here) or 'none'}")
    print("\nloss and gradient:")
    wrong = False
    for found in report(asked.compile):
        wrong |= found.wrong
        print(f"  {found.name:<27} {found.version:<16} {found.result}", flush=True)
    return int(wrong)


def report(compiled: bool = False) -> Iterator[Found]:
    """Every library that arrayloss knows, on every device, and with its compilers if `compiled`."""
    for backend in backends():
        installed, missing = _version(backend.module), _missing(backend)
        if missing:
            yield Found(backend.name, installed or "", missing)
            continue
        for mode in backend.modes if compiled else ("eager",):
            name = backend.name if mode == "eager" else f"{backend.name}, {mode}"
            yield Found(name, installed or "", _tried(backend, mode))


def _missing(backend: Backend) -> str | None:
    """Why the library can't be run; None if it can."""
    try:
        reason = backend.missing()
        if reason == f"{backend.module} is not installed":
            importlib.import_module(backend.module)
    except ModuleNotFoundError:
        return f"not here: {reason}"
    except Exception as error:  # it is installed, and its import fails
        return _told(error)
    return f"not here: {reason}" if reason else None


def _tried(backend: Backend, mode: str) -> str:
    """ "ok", or what went wrong."""
    ours = Implementation("arrayloss", {CASE.function: arrayloss.cross_entropy}, arrayloss.value_and_grad)
    try:
        numbers = backend.evaluate(ours, CASE, mode)
    except Exception as error:  # each library has its own
        return _told(error)
    for quantity, number in numbers.items():
        exact = GRADIENT if quantity.endswith("d logits") else VALUE
        if not np.allclose(number, exact, rtol=1e-6, atol=0):
            return f"wrong {quantity}: {np.asarray(number).tolist()}"
    return "ok"


def _told(error: Exception) -> str:
    """The kind of an error and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _version(module: str) -> str | None:
    """The installed version of a package, by its name or that of its module."""
    try:
        return version(module)
    except PackageNotFoundError:
        pass
    try:
        return str(importlib.import_module(module).__version__)
    except Exception:  # `_missing` reports a broken import
        return None


if __name__ == "__main__":
    sys.exit(main())
