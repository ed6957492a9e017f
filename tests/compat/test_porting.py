"""The claims of docs/porting.md, each with its number: what the originals do, and what arrayloss does."""

import os
from typing import Any

import numpy as np
import pytest

import arrayloss as al
from arrayloss import Hardest, Mean
from arrayloss.compat import keras as al_keras
from arrayloss.compat import optax as al_optax
from arrayloss.compat import torch as al_torch

X = np.asarray([[0.0, 0.0], [0.0, np.log(3.0)]])  # losses: log 2 = 0.693147 and log 4/3 = 0.287682
T = np.asarray([0, 1])
W = np.asarray([3.0, 1.0])


def close(got: Any, number: float) -> None:
    assert float(got) == pytest.approx(number, abs=1e-6)


@pytest.fixture
def F() -> Any:
    return pytest.importorskip("torch.nn.functional", reason="torch is not installed")


@pytest.fixture
def tensor() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed").tensor


@pytest.fixture
def keras() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    pytest.importorskip("jax", reason="jax is not installed")
    return pytest.importorskip("keras", reason="keras is not installed")


@pytest.fixture
def optax() -> Any:
    return pytest.importorskip("optax", reason="optax is not installed")


def test_weighted_mean(F: Any, tensor: Any, keras: Any) -> None:
    close(F.cross_entropy(tensor(X), tensor(T), tensor(W)), 0.591781)
    close(F.cross_entropy(tensor(X), tensor(np.eye(2)), tensor(W)), 1.183562)
    close(keras.losses.SparseCategoricalCrossentropy(from_logits=True)(T, X, sample_weight=W), 1.183562)
    close(al.cross_entropy(X, T, class_weight=W), 0.591781)
    close(al.cross_entropy(X, np.eye(2), class_weight=W), 0.591781)
    close(al.cross_entropy(X, T, class_weight=W, reduction=Mean(over="all")), 1.183562)


def test_binary_weighted_mean(F: Any, tensor: Any) -> None:
    x, y = np.zeros(2), np.asarray([0.0, 1.0])
    close(F.binary_cross_entropy_with_logits(tensor(x), tensor(y), tensor(W)), 1.386294)
    close(al.binary_cross_entropy_with_logits(x, y, sample_weight=W), 0.693147)
    close(al.binary_cross_entropy_with_logits(x, y, sample_weight=W, reduction=Mean(over="all")), 1.386294)


def test_label_smoothing_with_weights(F: Any, tensor: Any) -> None:
    close(F.cross_entropy(tensor(X), tensor(T), tensor(W), label_smoothing=0.2), 0.653904)
    close(al.cross_entropy(X, T, class_weight=W, label_smoothing=0.2), 0.653904)
    # Smoothed by hand, the target is probabilities, and its mean torch takes over N.
    close(F.cross_entropy(tensor(X), tensor(np.eye(2) * 0.8 + 0.1), tensor(W)), 1.307807)


def test_all_ignored(F: Any, tensor: Any, keras: Any) -> None:
    t = np.full(2, -100)
    assert np.isnan(float(F.cross_entropy(tensor(X), tensor(t))))
    assert np.isnan(al.cross_entropy(X, t))
    close(keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-100)(t, X), 0.0)
    close(al.cross_entropy(X, t, reduction=Mean(empty="zero")), 0.0)


def test_binary_smoothing(keras: Any, optax: Any) -> None:
    x, y = np.asarray([[2.0]]), np.asarray([[1.0]])
    close(keras.losses.binary_crossentropy(y, x, from_logits=True, label_smoothing=0.2)[0], 0.326928)
    close(al.binary_cross_entropy_with_logits(x, y, label_smoothing=0.2), 0.326928)
    # One column is one class: Optax then spreads alpha over 1, and the target stays 1.
    close(optax.smooth_labels(y, 0.2)[0, 0], 1.0)
    close(al_optax.smooth_labels(y, 0.2)[0, 0], 1.0)


def test_focal_alpha(keras: Any, optax: Any) -> None:
    x, y = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
    close(al.sigmoid_focal_loss(x, y), 0.173287)
    close(al.sigmoid_focal_loss(x, y, alpha=0.25), 0.043322)
    close(optax.sigmoid_focal_loss(x, y)[0, 0], 0.173287)
    close(keras.losses.binary_focal_crossentropy(y, x, from_logits=True)[0], 0.173287)  # alpha=0.25 has no effect
    close(keras.losses.binary_focal_crossentropy(y, x, True, from_logits=True)[0], 0.043322)
    q, z = np.asarray([[1.0, 0.0]]), np.zeros((1, 2))
    close(keras.losses.categorical_focal_crossentropy(q, z, from_logits=True)[0], 0.043322)  # and here it has
    close(al.softmax_focal_loss(z, q), 0.173287)


def test_focal_soft_target(optax: Any) -> None:
    x, y = np.asarray([2.0], np.float32), np.asarray([0.9], np.float32)
    close(optax.sigmoid_focal_loss(x, y)[0], 0.012478)
    close(al_optax.sigmoid_focal_loss(x, y)[0], 0.012478)
    close(al.sigmoid_focal_loss(x, y), 0.166631)


def test_label_out_of_range(F: Any, tensor: Any, optax: Any, keras: Any) -> None:
    original = optax.softmax_cross_entropy_with_integer_labels
    assert np.isnan(float(original(X, np.asarray([0, 2]))[1]))
    close(original(X, np.asarray([0, -1]))[1], 0.287682)  # wraps
    close(keras.losses.sparse_categorical_crossentropy(np.asarray([0, 2]), X, from_logits=True)[1], 0.0)
    with pytest.raises(IndexError, match="out of bounds"):
        F.cross_entropy(tensor(X), tensor(np.asarray([0, 2])))
    for preset in (al.cross_entropy, al_torch.cross_entropy, al_optax.softmax_cross_entropy_with_integer_labels):
        for label in (2, -1):
            with pytest.raises(ValueError, match="out of range"):
                preset(X, np.asarray([0, label]))
    with pytest.raises(ValueError, match="out of range"):
        al_optax.softmax_cross_entropy_with_integer_labels(X, np.asarray([0, -100]))
    with pytest.raises(ValueError, match="out of range"):
        al_keras.sparse_categorical_crossentropy(np.asarray([0, 2]), X, from_logits=True)


def test_column_and_row(optax: Any, F: Any, tensor: Any) -> None:
    x, y = np.asarray([[3.0], [-3.0], [3.0]], np.float32), np.asarray([1.0, 0.0, 1.0], np.float32)
    wrong = optax.sigmoid_binary_cross_entropy(x, y)
    assert wrong.shape == (3, 3)
    close(wrong.mean(), 1.381921)
    with pytest.raises(ValueError, match="size"):
        F.binary_cross_entropy_with_logits(tensor(x), tensor(y))
    with pytest.raises(ValueError, match=r"\(3,\).*\(3, 1\)"):
        al_optax.sigmoid_binary_cross_entropy(x, y)
    close(al.binary_cross_entropy_with_logits(x[:, 0], y), 0.048587)


def test_class_axis(F: Any, tensor: Any, optax: Any) -> None:
    # (2, 2, 2): no shape tells the axes apart.
    x, t = np.asarray([[[2.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]), np.zeros((2, 2), np.int64)
    x[0, 1, 0] = 1.0
    close(F.cross_entropy(tensor(x), tensor(t)), 0.598176)
    close(al_torch.cross_entropy(x, t), 0.598176)
    close(optax.softmax_cross_entropy_with_integer_labels(x, t).mean(), 0.456621)
    close(al.cross_entropy(x, t), 0.456621)
    close(al.cross_entropy(x, t, axis=1), 0.598176)


def test_clip(F: Any, tensor: Any, keras: Any) -> None:
    p, y = np.asarray([[0.0]]), np.asarray([[1.0]])
    close(keras.losses.binary_crossentropy(y, p)[0], 16.118095)
    close(al_keras.binary_crossentropy(y, p)[0], 16.118096)
    close(F.binary_cross_entropy(tensor(p), tensor(y)), 100.0)
    close(al_torch.binary_cross_entropy(p, y), 100.0)
    assert al.binary_cross_entropy(p, y) == np.inf
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    from arrayloss.compat.sklearn import log_loss

    for loss in (metrics.log_loss, log_loss):
        close(loss([1], np.asarray([0.0]), labels=[0, 1]), 36.043653)
        close(loss([1], np.asarray([0.0], np.float32), labels=[0, 1]), 15.942385)


def test_smoothing_along_another_axis(keras: Any) -> None:
    # Two classes along axis 1, and four positions: Keras spreads 0.2 as 0.2 / 4 each.
    q, x = np.zeros((1, 2, 4)), np.zeros((1, 2, 4))
    q[:, 0] = 1
    options: Any = {"from_logits": True, "label_smoothing": 0.2, "axis": 1}
    close(keras.losses.categorical_crossentropy(q, x, **options)[0, 0], 0.623832)
    close(al_keras.categorical_crossentropy(q, x, **options)[0, 0], 0.693147)


def test_zero_times_infinity(F: Any, tensor: Any, optax: Any) -> None:
    x, q = np.asarray([[0.0, -np.inf]]), np.asarray([[1.0, 0.0]])
    assert np.isnan(float(F.cross_entropy(tensor(x), tensor(q))))
    assert np.isnan(float(optax.softmax_cross_entropy(x, q)[0]))
    for loss in (al_torch.cross_entropy, al_optax.softmax_cross_entropy, al.cross_entropy):
        close(loss(x, q).sum(), 0.0)


def test_hard_examples(F: Any, tensor: Any) -> None:
    x = np.asarray([[3.0, 2.0, 1.0, 0.0], [-1.0, -2.0, -3.0, -4.0]])
    losses = F.binary_cross_entropy_with_logits(tensor(x), tensor(0 * x), reduction="none")
    close(losses.topk(k=int(4 * 0.5), dim=1).values.mean(), 1.403926)
    close(losses.flatten().topk(k=int(8 * 0.5)).values.mean(), 1.795481)
    hardest = Hardest(fraction=0.5)
    close(al.binary_cross_entropy_with_logits(x, 0 * x, reduction=hardest), 1.795481)
    rows = [al.binary_cross_entropy_with_logits(r, 0 * r, reduction=hardest) for r in x]
    close(np.mean(rows), 1.403926)


def test_lost_digits(F: Any, tensor: Any, keras: Any) -> None:
    x, t = np.asarray([[0.0, 20.0]], np.float32), np.asarray([1])
    assert float(F.cross_entropy(tensor(x), tensor(t))) == 0
    assert float(al_torch.cross_entropy(x, t)) == pytest.approx(2.061e-9, rel=1e-3)
    z, y = np.asarray([[-20.0]], np.float32), np.asarray([[1.0]], np.float32)
    assert float(keras.losses.binary_focal_crossentropy(y, z, from_logits=True)[0]) == pytest.approx(16.118, abs=1e-3)
    assert float(al_keras.binary_focal_crossentropy(y, z, from_logits=True)[0]) == pytest.approx(20.0, abs=1e-6)


def test_binary_target_out_of_range(F: Any, tensor: Any) -> None:
    x, y = np.asarray([1.0]), np.asarray([2.0])
    close(F.binary_cross_entropy_with_logits(tensor(x), tensor(y)), -0.686738)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        al_torch.binary_cross_entropy_with_logits(x, y)


def test_loss_under_autocast(F: Any, tensor: Any) -> None:
    import torch

    z, t = torch.tensor([[3.0, 0.0]], dtype=torch.bfloat16), torch.tensor([1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert F.cross_entropy(z, t).dtype == torch.float32
        assert al_torch.cross_entropy(z, t).dtype == torch.float32
        assert al.cross_entropy(z, t, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_learned_gamma(optax: Any) -> None:
    import jax
    import jax.numpy as jnp

    x, y = np.zeros(1, np.float32), np.ones(1, np.float32)
    close(optax.sigmoid_focal_loss(x, y, gamma=jnp.asarray(2.0))[0], 0.173287)
    close(al_optax.sigmoid_focal_loss(x, y, gamma=jnp.asarray(2.0))[0], 0.173287)
    traced = jax.jit(lambda x, gamma: al_optax.sigmoid_focal_loss(x, jnp.asarray(y), gamma=gamma))
    close(traced(jnp.asarray(x), 2.0)[0], 0.173287)


def test_label_that_is_masked_out(optax: Any) -> None:
    x, t, where = np.asarray([[0.0, 2.0]]), np.asarray([1]), np.asarray([[True, False]])
    close(optax.softmax_cross_entropy_with_integer_labels(x, t, where=where)[0], -2.0)
    assert al_optax.softmax_cross_entropy_with_integer_labels(x, t, where=where)[0] == np.inf


def test_sklearn_returns_an_array() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    from arrayloss.compat.sklearn import log_loss

    y, p = [0, 1], np.asarray([0.2, 0.9])
    assert isinstance(metrics.log_loss(y, p), float)
    value = log_loss(y, p)
    assert value.shape == ()
    assert value == pytest.approx(metrics.log_loss(y, p), rel=1e-15)
