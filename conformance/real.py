"""Real logits: those of linear classifiers, on data that scikit-learn carries; and training with the gradients.

The logits that the libraries are judged on are made of whole numbers alone: features scaled to multiples of 2**-12 and
committed weights (`trained.json`, 2,000 steps of gradient descent on cross-entropy, rounded to the same), so that they
are the same on every processor.

Besides, each library trains such a classifier from the same start, by plain gradient descent in float64, and its loss
curve is compared with the first library's. In float64 because a trajectory multiplies rounding: libraries sum in
different orders, so the float32 curves drift apart by their own rounding, and any bound that holds for that would hide
a wrong gradient too. Only `value_and_grad` runs on the library under test; the products with the data are made in
NumPy, so that the loss is all that can differ.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from arrayloss.testing import Backend, Case, Floats, Implementation, rounded

from . import named, runner
from .runner import Result, Selection, Spreads

FAMILY = "real"
STEPS = 60
LENGTH = 2.0
CURVE_RTOL = 1e-12
"""How far loss curves may lie apart: 60 steps of some float64 ULP each, grown by descent that is stable."""

BITS = 12
"""Features and weights are multiples of 2**-12: a sum of their products has 34 bits, and is exact in any order."""

WEIGHTS = Path(__file__).with_name("trained.json")
TRAINED = {
    "cross_entropy": "digits",
    "softmax_focal_loss": "digits",
    "binary_cross_entropy_with_logits": "breast cancer",
    "sigmoid_focal_loss": "breast cancer",
}
"""The data of each function that is trained with."""


def data(name: str) -> tuple[Floats, Floats]:
    """Features from -1/2 to 1/2, each scaled by a power of two, with a column of ones; and labels."""
    from sklearn import datasets

    load: Callable[..., Any] = datasets.load_digits if name == "digits" else datasets.load_breast_cancer
    features, labels = load(return_X_y=True)
    features = np.asarray(features, dtype=np.float64)
    binade = np.frexp(np.max(features, axis=0))[1]
    features = np.ldexp(np.rint(np.ldexp(features, BITS - binade)), -BITS) - 0.5
    return np.column_stack([features, np.ones(len(features))]), np.asarray(labels, dtype=np.float64)


def logits(name: str) -> Floats:
    """Those of every sample, by the committed weights."""
    weights = np.ldexp(np.asarray(json.loads(WEIGHTS.read_text())[name], dtype=np.float64), -BITS)
    return np.asarray(data(name)[0] @ weights)


def train(
    function: str, implementation: Implementation, backend: Backend, mode: str = "eager", steps: int = STEPS
) -> Floats:
    """The loss curve, from weights of 0."""
    name = TRAINED[function]
    features, labels = data(name)
    kind = "index" if name == "digits" else "float"
    weights = np.zeros((features.shape[1], 10) if name == "digits" else (features.shape[1],))
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
        weights = weights - LENGTH * (features.T @ gradient)
    return curve


def judged(implementation: Implementation, selection: Selection, spreads: Spreads | None = None) -> Iterator[Result]:
    """Judge every library on the logits of the trained classifiers; train on each, and compare the curves."""
    if importlib.util.find_spec("sklearn") is None:
        yield Result(
            "", "", "training", "", "", "", "", "", "not run", "scikit-learn, which has the data, is not installed"
        )
        return
    for function in TRAINED:
        if function in implementation.functions and function in (selection.functions or TRAINED):
            yield from runner.run([implementation], _cases(function, selection), selection, spreads)
    present = named.chosen(selection.backends)
    present = [b for b in present if b.missing() is None and "float64" in b.dtypes]
    if implementation.backends is not None:
        present = [b for b in present if b.name in implementation.backends]
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
                curve = train(function, implementation, backend, mode)
            except Exception as error:  # whatever it raises is a finding
                yield Result(**{**vars(record), "status": "error", "reason": f"{type(error).__name__}: {error}"[:400]})
                continue
            first = curve if first is None else first
            apart = float(np.max(np.abs(curve / first - 1)))
            falls = bool(curve[-1] < curve[0] / 2)
            bad = not (apart <= CURVE_RTOL and falls)
            reason = f"{apart:.1e} from the first library's curve, {curve[0]:.4f} to {curve[-1]:.4f}"
            yield Result(**{**vars(record), "status": "FAIL" if bad else "ok", "reason": reason})


def _cases(function: str, selection: Selection) -> Iterator[Case]:
    """Every third sample, in each dtype."""
    name = TRAINED[function]
    labels, x = data(name)[1][::3], logits(name)[::3]
    kind = "index" if name == "digits" else "float"
    for dtype in selection.dtypes or ("float16", "bfloat16", "float32", "float64"):
        arrays = {"logits": rounded(x, dtype), "target": labels}
        options = {"reduction": "none"}
        yield Case(function, FAMILY, name, dtype, arrays, options, kind, np.ones(len(labels)))
