"""Adding a loss, tried for real: one cost and one public function, and everything else is there."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from arrayloss import _kernels, value_and_grad
from arrayloss._engine import Problem, binary, categorical
from arrayloss._gradients import loss
from arrayloss._modes import Array, Traced


@dataclass(frozen=True)
class Generalised(_kernels.Cost):
    q: float

    def value(self, mode: Traced, at: _kernels.Chance) -> Array:
        return -mode.xp.expm1(-self.q * at.surprisal) / self.q

    def slope(self, mode: Traced, at: _kernels.Chance) -> Array:
        return mode.xp.exp(-self.q * at.surprisal)


COMMON = {"sample_weight": None, "where": None, "reduction": "mean", "dtype": None}


@loss
def generalised_loss(logits: Any, target: Any, /, *, q: float = 0.7, **options: Any) -> Problem[Any]:
    given = {"axis": -1, "class_weight": None, "ignore_index": -100, **COMMON, **options}
    return categorical(_kernels.softmax, Generalised(q), logits, target, **given)


@loss
def binary_generalised_loss(logits: Any, target: Any, /, *, q: float = 0.7, **options: Any) -> Problem[Any]:
    given = {"ignore_index": None, **COMMON, **options}
    return binary(_kernels.sigmoid, Generalised(q), logits, target, **given)


def test_a_cost_is_two_short_methods() -> None:
    code = [line for line in inspect.getsource(Generalised).splitlines() if line.strip()]
    assert len(code) <= 9


LOGITS = np.asarray([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0], [2.0, 2.0, -1.0], [5.0, 0.0, 1.0]])


def expected(x: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values, and the gradient of their sum, in plain float64."""
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    slope = q * p**0.7
    return (q * (1 - p**0.7) / 0.7).sum(1), p * slope.sum(1, keepdims=True) - slope


@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
def test_generalised_loss(backend: Any, soft: bool) -> None:
    q = np.asarray([[0.2, 0.3, 0.5], [0, 1, 0], [1, 0, 0], [0.9, 0.1, 0]]) if soft else np.eye(3)[[2, 1, 0, 0]]
    value, gradient = expected(LOGITS, q)
    target = q if soft else np.argmax(q, axis=1)
    backend.agree(generalised_loss, LOGITS, target, value.mean(), gradient / 4, rtol=8 * backend.rtol())


def test_binary_generalised_loss(backend: Any) -> None:
    x, y = LOGITS[:, 0], np.asarray([0, 1, 1, 0])
    pairs = np.stack([np.zeros(4), x], axis=1)
    value, gradient = expected(pairs, np.eye(2)[y])
    backend.agree(binary_generalised_loss, x, y, value.mean(), gradient[:, 1] / 4, rtol=8 * backend.rtol())


def test_value_and_grad_has_it_too() -> None:
    value, gradient = value_and_grad(generalised_loss)(LOGITS, np.asarray([2, 1, 0, 0]), reduction="sum")
    values, gradients = expected(LOGITS, np.eye(3)[[2, 1, 0, 0]])
    np.testing.assert_allclose(value, values.sum(), rtol=1e-14)
    np.testing.assert_allclose(gradient, gradients, rtol=1e-13)
