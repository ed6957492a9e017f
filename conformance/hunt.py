"""A seeded random search for the worst input of each function; what it finds worse than known is kept as a case."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arrayloss.testing import FORMATS, Case, Floats, Implementation, rounded

from . import runner
from .cases import ELEMENTWISE, FUNCTIONS, GIVEN, PAIRED, TRANSFORMS
from .cases import ROWS as STRESS_ROWS
from .draws import Draws
from .runner import Result, Selection

FAMILY = "hunted"
KEPT = Path(__file__).with_name("hunted.json")
DTYPES = ("float32", "float64")
ROWS = 256
PARAMETERS: dict[str, tuple[str, tuple[float, ...]]] = {
    "softmax_focal_loss": ("gamma", (0.5, 1, 2, 5)),
    "sigmoid_focal_loss": ("gamma", (0.5, 1, 2, 5)),
    "poly_loss": ("epsilon", (2, -1)),
    "generalized_cross_entropy": ("q", (0.125, 0.7, 1)),
    "asymmetric_loss": ("gamma_negative", (0, 1, 4)),
}
"""The option that makes a function another formula, and what is drawn for it."""


@dataclass(frozen=True)
class Find:
    """The sample nearest to its budget, or farthest over it, found for a function, dtype and parameter.

    Of two rows of logits, the second follows the first.
    """

    function: str
    dtype: str
    parameter: float | None
    logits: list[float]
    label: float
    after_k: float
    budget: float
    backend: str
    quantity: str

    @property
    def key(self) -> tuple[str, str, float]:
        """What it is the worst of."""
        return self.function, self.dtype, self.parameter or 0.0

    @property
    def share(self) -> float:
        """How much of the budget is used up."""
        return self.after_k / self.budget


def hunt(implementation: Implementation, selection: Selection, seconds: float) -> list[Find]:
    """Search until the time is up, each function in turn, half of the rows near the worst known one.

    What is known already is measured anew, so that what has been mended is forgotten.
    """
    rng = Draws(selection.seed)
    known = _anew(implementation)
    functions = [f for f in selection.functions or FUNCTIONS if f not in ("nll_loss", *GIVEN)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for function in functions:
            for dtype in [d for d in selection.dtypes or DTYPES if d in DTYPES]:
                parameter = float(rng.choice(PARAMETERS[function][1])) if function in PARAMETERS else None
                key = function, dtype, parameter or 0.0
                case = _draw(function, dtype, parameter, rng, known.get(key))
                for result in runner.run([implementation], [case], selection):
                    found = _find(case, result)
                    if found and (key not in known or found.share > known[key].share):
                        known[key] = found
                if time.monotonic() > end:
                    break
    return [known[key] for key in sorted(known)]


def _draw(function: str, dtype: str, parameter: float | None, rng: Draws, best: Find | None) -> Case:
    """Rows of random scale, half of them small changes of the worst row so far."""
    if function in ELEMENTWISE:
        x = rng.signs(ROWS) * rng.between(1e-4, 200, ROWS)
        if function == "binary_cross_entropy":
            small = rng.between(FORMATS[dtype].epsilon / 2, 0.5, ROWS)
            x = np.where(x < 0, small, 1 - small)
        if best is not None:
            x[: ROWS // 2] = best.logits[0] * (1 + rng.normal(ROWS // 2) * rng.between(1e-7, 0.1, ROWS // 2))
        if function == "binary_cross_entropy":
            x = np.clip(x, FORMATS[dtype].tiny, 1 - FORMATS[dtype].epsilon / 2)
        labels = rng.integers(2, ROWS)
    else:
        rows = 2 if function in PAIRED else 1
        near = best is not None and rng.uniform(()) < 0.5
        classes = len(best.logits) if best is not None and near else rows * int(rng.choice((2, 3, 5, 10)))
        x = rng.normal((ROWS, classes)) * rng.between(1e-3, 100, (ROWS, 1))
        if rows == 2:
            x[:, classes // 2 :] *= rng.between(1e-8, 1, (ROWS, 1))
            x[:, classes // 2 :] += x[:, : classes // 2]
        if best is not None and classes == len(best.logits):
            change = rng.normal((ROWS // 2, classes)) * rng.between(1e-7, 0.1, (ROWS // 2, 1))
            x[: ROWS // 2] = np.asarray(best.logits) * (1 + change)
        labels = rng.integers(classes, ROWS)
    return _case(function, dtype, parameter, rounded(x, dtype), labels)


def _case(function: str, dtype: str, parameter: float | None, x: Floats, labels: Floats) -> Case:
    if function in PAIRED:
        student, teacher = np.split(x, 2, axis=-1)
        arrays = {"logits": student, "target": teacher}
        wrt = ("logits", "target")
        return Case(function, FAMILY, "search", dtype, arrays, {"reduction": "none"}, "float", np.ones(len(x)), wrt)
    arrays = {"logits": x}
    options: dict[str, Any] = {}
    kind = "none"
    cotangent = np.ones(x.shape if function in ELEMENTWISE else x.shape[:-1])
    if function in TRANSFORMS:
        if function in ("softmax", "log_softmax"):
            cotangent = (np.arange(x.shape[-1]) == labels[:, None]).astype(np.float64)
    else:
        arrays["target"] = labels
        kind = "float" if function in ELEMENTWISE else "index"
        options["reduction"] = "none"
        if parameter is not None:
            options[PARAMETERS[function][0]] = parameter
    return Case(function, FAMILY, "search", dtype, arrays, options, kind, cotangent)


def _find(case: Case, result: Result) -> Find | None:
    if result.measured is None or result.witness is None or not result.witness.position:
        return None
    at = result.witness.position[0]
    logits = np.atleast_1d(case.arrays["logits"][at])
    if case.function in PAIRED:
        logits = np.concatenate([logits, case.arrays["target"][at]])
    labels = case.arrays["target"] if "target" in case.arrays else np.zeros(len(case.arrays["logits"]))
    if case.cotangent is not None and case.cotangent.ndim > 1:
        labels = np.argmax(case.cotangent, axis=-1).astype(np.float64)
    parameter = case.options[PARAMETERS[case.function][0]] if case.function in PARAMETERS else None
    after = result.measured.after_k if not result.failed else max(result.measured.after_k, result.budget + 1)
    return Find(
        case.function,
        case.dtype,
        parameter,
        [float(v) for v in logits],
        0.0 if case.function in PAIRED else float(labels[at]),
        after,
        result.budget,
        f"{result.backend} {result.mode}",
        result.quantity,
    )


def told(found: list[Find]) -> str:
    """The finds as lines."""
    return "\n".join(
        f"{f.function:34} {f.dtype}: {f.after_k:6.2f} ULP after k{', OVER' if f.share > 1 else ' of'} {f.budget:g}, "
        f"{f.quantity} on {f.backend}"
        f"{'' if f.parameter is None else f', {PARAMETERS[f.function][0]} {f.parameter:g}'}: "
        f"logits {f.logits}, label {f.label:g}"
        for f in found
    )


def keep(found: list[Find]) -> None:
    """Write the finds down, as hexadecimal floats."""
    entries = [{**vars(f), "logits": [v.hex() for v in f.logits], "after_k": round(f.after_k, 3)} for f in found]
    KEPT.write_text(json.dumps(entries, indent=1) + "\n")


def _read() -> list[Find]:
    if not KEPT.exists():
        return []
    entries = json.loads(KEPT.read_text())
    return [Find(**{**e, "logits": [float.fromhex(v) for v in e["logits"]]}) for e in entries]


def kept(selection: Selection) -> Iterator[Case]:
    """What was found, as cases of as many rows as the stress cases have: what is compiled for these serves."""
    if not selection.families or FAMILY in selection.families:
        for f in _read():
            if f.function in (selection.functions or FUNCTIONS) and f.dtype in (selection.dtypes or tuple(FORMATS)):
                yield _again(f)


def _again(find: Find) -> Case:
    x = np.tile(find.logits, (STRESS_ROWS, 1))
    x = x[:, 0] if find.function in ELEMENTWISE else x
    return _case(find.function, find.dtype, find.parameter, x, np.full(STRESS_ROWS, find.label))


def _anew(implementation: Implementation) -> dict[tuple[str, str, float], Find]:
    """What is known, with the figures of today from where it was found."""
    known = {}
    for old in _read():
        backend, mode = old.backend.split()
        there = Selection(backends=(backend,), modes=(mode,))
        found = [_find(_again(old), r) for r in runner.run([implementation], [_again(old)], there)]
        known[old.key] = max(filter(None, found), key=lambda f: f.share, default=old)
    return known
