"""No option is dropped in silence: one that could have no effect is refused."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import arrayloss as al
from arrayloss import value_and_grad
from outside.common import CATEGORICAL, arguments, close, mean_of, over_categorical


@over_categorical
def test_ignore_index_goes_with_labels(backend: Any, loss: Any) -> None:
    x, t = (backend.asarray(a) for a in arguments(loss, soft=True))
    for call, ignore_index in ((loss, 1), (loss, (-100, 0)), (value_and_grad(loss), -1), (value_and_grad(loss), 255)):
        with pytest.raises(ValueError, match="ignore_index") as caught:
            call(x, t, ignore_index=ignore_index)
        assert "label" in str(caught.value)
        assert str(ignore_index) in str(caught.value)


@over_categorical
def test_the_default_ignore_index_is_no_mistake(backend: Any, loss: Any) -> None:
    x, t = arguments(loss, soft=True)
    value, gradient = mean_of(loss, x, t)
    got = value_and_grad(loss)(backend.asarray(x), backend.asarray(t), ignore_index=-100)
    for one, due in zip(got, (value, gradient), strict=True):
        close(backend.to_numpy(one), due, 20 * backend.rtol())


def test_modules_too() -> None:
    torch = pytest.importorskip("torch")
    from arrayloss.nn.torch import CrossEntropyLoss, SoftmaxFocalLoss

    x, t = torch.zeros(4, 3), torch.full((4, 3), 1 / 3)
    for module in (SoftmaxFocalLoss, CrossEntropyLoss):
        with pytest.raises(ValueError, match="ignore_index"):
            module(ignore_index=1)(x, t)


def test_every_option_has_an_effect() -> None:
    """Each option of each loss, at a value that is not its default, changes the losses of some batch."""
    rng = np.random.default_rng(0)
    effects: dict[str, Any] = {
        "axis": 0,
        "class_weight": np.array([1.0, 2.0, 0.5]),
        "sample_weight": np.array([1.0, 2.0, 0.5]),
        "where": np.array([True, False, True]),
        "ignore_index": 1,
        "reduction": "sum",
        "dtype": np.float32,
        "label_smoothing": 0.3,
        "gamma": 1.0,
        "gamma_positive": 2.0,
        "gamma_negative": 1.0,
        "margin": 0.2,
        "epsilon": 1.0,
        "temperature": 2.0,
        "pos_weight": 3.0,
        "z_loss": 0.1,
    }
    losses: list[Any] = [
        *CATEGORICAL,
        al.kl_divergence_with_logits,
        al.binary_cross_entropy_with_logits,
        al.sigmoid_focal_loss,
    ]
    for loss in losses:
        categorical = loss in CATEGORICAL
        x, t = arguments(loss, shape=(3, 3))
        for name, option in inspect.signature(loss).parameters.items():
            if option.kind is not option.KEYWORD_ONLY:
                continue
            alpha = np.array([0.1, 0.5, 0.9]) if categorical else 0.25
            changed = alpha if name == "alpha" else effects[name]
            targets = [t]
            if categorical and name != "ignore_index":
                targets.append(rng.dirichlet(np.ones(3), size=3))
            for target in targets:
                without, given = loss(x, target, reduction="none"), {"reduction": "none", name: changed}
                assert not np.array_equal(loss(x, target, **given), without), f"{loss.__name__}, {name}"
