"""Real logits: linear classifiers trained with the implementation's own gradients on data that scikit-learn carries.

Each is trained on each library from the same start, by plain gradient descent in float64. In float64 because a
trajectory multiplies rounding: libraries sum in different orders, so the float32 curves drift apart by their own
rounding, and any bound that holds for that would hide a wrong gradient too. Only `value_and_grad` runs on the library
under test; the products with the data are made in NumPy, so that the loss is all that can differ.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from arrayloss.testing import Backend, Case, Floats, Implementation, rounded
from conformance import named, runner
from conformance.runner import Result, Selection, Spreads

FAMILY = "real"
STEPS = 120
CURVE_RTOL = 1e-12
"""How far loss curves may lie apart: 120 steps of some float64 ULP each, grown by descent that is stable."""

TRAINED = {
    "cross_entropy": ("digits", 0.5),
    "softmax_focal_loss": ("digits", 0.5),
    "binary_cross_entropy_with_logits": ("breast cancer", 0.5),
    "sigmoid_focal_loss": ("breast cancer", 0.5),
}
"""The data and the step length of each function that is trained with."""


def data(name: str) -> tuple[Floats, Floats]:
    """Features, standardised, with a column of ones; and labels."""
    from sklearn import datasets

    load: Callable[..., Any] = datasets.load_digits if name == "digits" else datasets.load_breast_cancer
    features, labels = load(return_X_y=True)
    features = np.asarray(features, dtype=np.float64)
    spread = features.std(axis=0)
    features = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    return np.column_stack([features, np.ones(len(features))]), np.asarray(labels, dtype=np.float64)


def train(
    function: str, implementation: Implementation, backend: Backend, mode: str = "eager", steps: int = STEPS
) -> tuple[Floats, Floats]:
    """The loss curve, and the logits of all samples at the end."""
    name, length = TRAINED[function]
    features, labels = data(name)
    kind = "index" if name == "digits" else "float"
    shape = (features.shape[1], 10) if name == "digits" else (features.shape[1],)
    weights = np.random.default_rng(0).normal(size=shape) * 0.01
    curve = np.zeros(steps)
    closed = Implementation(
        implementation.name,
        implementation.functions,
        implementation.value_and_grad,
        implementation.reduction,
    )
    for step in range(steps):
        arrays = {"logits": features @ weights, "target": labels}
        case = Case(function, FAMILY, "training", "float64", arrays, {}, kind)
        numbers = backend.evaluate(closed, case, mode)
        curve[step] = float(numbers["value"])
        gradient = numbers.get("closed d logits", numbers.get("auto d logits"))
        if gradient is None:
            raise ValueError("no gradient to train with")
        weights = weights - length * (features.T @ gradient)
    return curve, features @ weights


def judged(implementation: Implementation, selection: Selection, spreads: Spreads | None = None) -> Iterator[Result]:
    """Train on each library, compare the curves with the first's, and judge every library on the logits."""
    if importlib.util.find_spec("sklearn") is None:
        yield Result(
            "", "", "training", "", "", "", "", "", "not run", "scikit-learn, which has the data, is not installed"
        )
        return
    present = named.chosen(selection.backends)
    present = [b for b in present if b.missing() is None and "float64" in b.dtypes]
    if selection.quick:
        present = [b for b in present if b.name != "dask"]
    if implementation.backends is not None:
        present = [b for b in present if b.name in implementation.backends]
    chosen: list[Case] = []
    for function in TRAINED:
        if function not in implementation.functions or function not in (selection.functions or TRAINED):
            continue
        first: Floats | None = None
        for backend in present:
            # Compiled where that is cheap; the eager gradients are held to the same numbers by every other family.
            mode = "jax.jit" if "jax.jit" in backend.modes else "eager"
            if selection.modes and mode not in selection.modes:
                continue
            record = Result(
                implementation.name, function, backend.name, mode, "float64", "curve", FAMILY, f"{STEPS} steps", "ok"
            )
            try:
                curve, logits = train(function, implementation, backend, mode)
            except Exception as error:  # whatever it raises is a finding
                yield Result(**{**vars(record), "status": "error", "reason": f"{type(error).__name__}: {error}"[:400]})
                continue
            if first is None:
                first = curve
                chosen += list(_cases(function, logits, selection))
            apart = float(np.max(np.abs(curve / first - 1)))
            falls = bool(curve[-1] < curve[0] / 2)
            bad = not (apart <= CURVE_RTOL and falls)
            reason = f"{apart:.1e} from the first library's curve, {curve[0]:.4f} to {curve[-1]:.4f}"
            yield Result(**{**vars(record), "status": "FAIL" if bad else "ok", "reason": reason})
    yield from runner.run([implementation], chosen, selection, spreads)


def _cases(function: str, logits: Floats, selection: Selection) -> Iterator[Case]:
    """Every third trained sample, in each dtype."""
    name, _ = TRAINED[function]
    labels = data(name)[1][::3]
    kind = "index" if name == "digits" else "float"
    for dtype in selection.dtypes or ("float16", "bfloat16", "float32", "float64"):
        arrays = {"logits": rounded(logits[::3], dtype), "target": labels}
        options = {"reduction": "none"}
        yield Case(function, FAMILY, name, dtype, arrays, options, kind, np.ones(len(labels)))
