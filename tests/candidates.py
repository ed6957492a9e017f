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


def nothing(logits: Any, target: Any) -> Any:
    """Takes the arrays of no library."""
    raise TypeError("not these")
