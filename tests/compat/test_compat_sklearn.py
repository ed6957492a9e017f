"""arrayloss.compat.sklearn against sklearn.metrics."""

import warnings
from typing import Any

import numpy as np
import pytest

from arrayloss.compat import sklearn as preset

metrics = pytest.importorskip("sklearn.metrics", reason="the original, scikit-learn, is not installed")

RNG = np.random.default_rng(0)
P = RNG.random((12, 3))
P /= P.sum(1, keepdims=True)
P[:3] = np.eye(3)  # the clip
CODES = np.concatenate([[1, 1, 0, 2], RNG.integers(0, 3, 8)])
WEIGHT = RNG.random(12)
OPTIONS = ["labels", "normalize", "sample_weight"]
NAMES = np.asarray(["ham", "eggs", "spam"])


def test_signature(same_signature: Any) -> None:
    same_signature(preset.log_loss, metrics.log_loss)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_multiclass(lib: Any, record: Any, normalize: bool, weight: Any, dtype: Any) -> None:
    p = P.astype(dtype)
    weight = None if weight is None else weight.astype(dtype)
    for y, labels in [
        (CODES, None),
        (CODES * 10 - 5, None),
        (NAMES[CODES], None),
        (NAMES[CODES].tolist(), ["eggs", "ham", "spam"]),
        (np.where(CODES == 2, 1, CODES), [0, 1, 2]),
        (np.eye(3, dtype=np.int64)[CODES], None),
    ]:
        expected = metrics.log_loss(y, p, normalize=normalize, sample_weight=weight, labels=labels)
        got = preset.log_loss(y, lib.array(p), normalize=normalize, sample_weight=lib.array(weight), labels=labels)
        np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-13 if dtype is np.float64 else 1e-5)
        if dtype is np.float64:
            record("sklearn.log_loss", lib.name, OPTIONS, (np.asarray(got), np.asarray(expected)))


@pytest.mark.parametrize("shape", [(12,), (12, 1)])
def test_binary(lib: Any, shape: tuple[int, ...]) -> None:
    p, y = P[:, 0].reshape(shape), np.asarray(["no", "yes"])[CODES % 2]
    expected = metrics.log_loss(y, p)
    np.testing.assert_allclose(np.asarray(preset.log_loss(y, lib.array(p))), expected, rtol=1e-13)
    codes = lib.array(CODES % 2)
    np.testing.assert_allclose(np.asarray(preset.log_loss(codes, lib.array(p))), expected, rtol=1e-13)


def test_gradient(lib: Any, originals: Any) -> None:
    """Of the probabilities themselves, which scikit-learn has none of."""
    pytest.importorskip("torch", reason="torch is not installed")
    import torch

    p = P[3:]
    expected = originals["torch"](lambda p: -torch.log(p[torch.arange(9), torch.tensor(CODES[3:])]).mean(), p)
    lib.agree(lambda p: preset.log_loss(CODES[3:], p, labels=[0, 1, 2]), p, (), expected, of="sklearn.log_loss")


def test_the_name_before_1_9() -> None:
    assert preset.log_loss(CODES, y_pred=P) == preset.log_loss(CODES, P)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
def test_both_or_neither_of_two(lib: Any, weight: Any) -> None:
    """Rows that say which of two are right, with a probability of the second alone."""
    rows = np.resize([[1, 0], [0, 1], [1, 1], [0, 0]], (12, 2))
    for y, p in [(rows, P[:, 0]), (rows.tolist(), P[:, 1:2]), (rows, P[:, :2])]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sums other than 1
            expected = metrics.log_loss(y, p, sample_weight=weight)
        got = preset.log_loss(y, lib.array(p), sample_weight=lib.array(weight))
        np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-13)


def test_errors() -> None:
    for y, p, labels in [
        (CODES, 1.5 * P, None),  # no probabilities
        (CODES[:5], P, [0, 1, 2]),
        (CODES, P[None], None),
        (np.zeros(12), P, None),  # one label
        (CODES % 2, P, None),  # two labels, three columns
        (CODES, P, [0, 1, 3]),  # a label that is not declared
        (CODES, P, [0, 1, 2, 3]),
    ]:
        for log_loss in (metrics.log_loss, preset.log_loss):
            with pytest.raises(ValueError, match=r"label|classes|than 1|between|samples|dim|shape"):
                log_loss(y, p, labels=labels)


def test_sums_other_than_1_are_taken_as_they_are() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = metrics.log_loss(CODES, P / 2)
    np.testing.assert_allclose(preset.log_loss(CODES, P / 2), expected, rtol=1e-14)
