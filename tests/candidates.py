"""Functions that somebody might have judged, for test_candidate.py; each is right but where it says so."""

from __future__ import annotations

import os
from typing import Any

import numpy as np


def binary_cross_entropy_with_logits(logits: Any, target: Any) -> Any:
    """NumPy, with no options and no reduction; stable."""
    x, y = np.asarray(logits, dtype=np.float64), np.asarray(target, dtype=np.float64)
    right, wrong = np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x))), np.minimum(-x, 0) - np.log1p(np.exp(-np.abs(x)))
    return -(np.where(y == 0, 0, y * right) + np.where(y == 1, 0, (1 - y) * wrong))


def mean(logits: Any, target: Any) -> Any:
    """The same, reduced to its mean."""
    return np.mean(binary_cross_entropy_with_logits(logits, target))


def total(logits: Any, target: Any) -> float:
    """The same, reduced to its sum, which is a number of Python's."""
    return float(np.sum(binary_cross_entropy_with_logits(logits, target)))


def swapped(logits: Any, target: Any) -> Any:
    """A planted bug: the answers are swapped."""
    return binary_cross_entropy_with_logits(logits, 1 - np.asarray(target, dtype=np.float64))


def swapped_mean(logits: Any, target: Any) -> Any:
    """The same bug, and the mean."""
    return np.mean(swapped(logits, target))


def torch_cross_entropy(logits: Any, target: Any, *, ignore_index: int = 0, reduction: str = "sum") -> Any:
    """torch's, with defaults of its own."""
    import torch.nn.functional as F

    return F.cross_entropy(logits, target, ignore_index=ignore_index, reduction=reduction)


def keras_cross_entropy(logits: Any, target: Any) -> Any:
    """Keras has the target first."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    return keras.losses.sparse_categorical_crossentropy(target, logits, from_logits=True)


def of_shares(logits: Any, target: Any) -> Any:
    """A cross-entropy of one-hot targets alone; stable, but for its sum of many."""
    x = np.asarray(logits, dtype=np.float64)
    if target.shape != x.shape:
        raise ValueError(f"targets of shape {target.shape} for logits of shape {x.shape}")
    top = np.max(x, axis=-1, keepdims=True)
    of_others = np.log(np.sum(np.exp(x - top), axis=-1, keepdims=True)) + top
    return np.sum(np.where(target == 0, 0, target * (of_others - x)), axis=-1)


def whole(logits: Any, target: Any) -> Any:
    """A cross-entropy of torch, with the losses of all classes."""
    import torch.nn.functional as F

    return F.cross_entropy(logits, target, reduction="none")[:, None].expand(logits.shape)


def target_first(y, x):  # type: ignore[no-untyped-def]
    """A cross-entropy with its arguments as tf.nn and Keras have them."""
    return of_shares(x, (np.arange(x.shape[-1]) == y[..., None]) * 1.0)


def balanced(logits: Any, target: Any, alpha: float = 0.25, gamma: float = 2.0) -> Any:
    """A stand-in for kornia's focal loss where its alpha, 0.25, can't be None."""
    x, y = np.asarray(logits, dtype=np.float64), np.asarray(target, dtype=np.float64)
    right, wrong = -np.logaddexp(0, -x), -np.logaddexp(0, x)
    at_one, at_zero = -np.exp(gamma * wrong) * right, -np.exp(gamma * right) * wrong
    return np.where(y == 0, 0, alpha * y * at_one) + np.where(y == 1, 0, (1 - alpha) * (1 - y) * at_zero)


def inner(x: Any) -> Any:
    """What a bug is in."""
    return x.no_such_thing


def raises(logits: Any, target: Any) -> Any:
    """A bug of the user's own, and not at the top."""
    return inner(logits)


def raises_at_times(logits: Any, target: Any) -> Any:
    """The same, of some inputs."""
    return inner(logits) if np.any(np.isinf(logits)) else binary_cross_entropy_with_logits(logits, target)


def nothing(logits: Any, target: Any) -> Any:
    """Takes the arrays of no library."""
    raise TypeError("not these")
