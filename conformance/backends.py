"""What is judged by default, and the versions of all that its results depend on."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version

from arrayloss.testing import Implementation

from .cases import FUNCTIONS


def arrayloss() -> Implementation:
    """The package that this suite was written beside."""
    package = importlib.import_module("arrayloss")
    return Implementation(
        "arrayloss",
        {name: getattr(package, name) for name in (*FUNCTIONS, "linear_cross_entropy") if hasattr(package, name)},
        package.value_and_grad,
        lambda reduce: getattr(package, reduce.kind)(**reduce.arguments),
        strict=True,
    )


def versions() -> dict[str, str]:
    """The versions of everything that a result depends on."""
    names = (
        "numpy",
        "torch",
        "jax",
        "array-api-compat",
        "array-api-strict",
        "dask",
        "cupy",
        "cupy-cuda12x",
        "cupy-cuda13x",
        "python-flint",
    )
    # Also where it isn't installed, but on the path.
    found = {"arrayloss": str(importlib.import_module("arrayloss").__version__)}
    for name in (*names, "optax", "scipy", "scikit-learn", "keras", "dpnp", "ndonnx", "onnxruntime"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
