"""The losses of `keras.losses` (3.15, the functions), on any array: targets first, and the loss of each sample.

Keras clips *probabilities* to [1e-7, 1 - 1e-7] before it takes a logarithm. The functions here do the same. The
argument `epsilon` replaces the 1e-7, and 0 turns the clipping off. (In Keras this is no argument, but the setting
`keras.config.epsilon()`.) *Logits* are never clipped here. Keras clips them in the two focal losses, and in
`binary_crossentropy` on its NumPy backend.

To get the mean over the samples, divide by their number. The Keras classes do this (`sum_over_batch_size`), whatever
the sample weights are.
"""

from __future__ import annotations

import numbers
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from arrayloss.compat.shared import (
    ClippedAnswers,
    ClippedRows,
    averaged,
    blended_focal,
    check_target,
    check_weights,
    focal_penalty,
)
from arrayloss.extending import (
    CrossEntropy,
    Generalized,
    GivenKullbackLeibler,
    Penalty,
    Problem,
    backend_of,
    binary,
    categorical,
    check_axis,
    check_fraction,
    check_given,
    documented,
    loss,
    paired,
    sigmoid,
    softmax,
)

A = TypeVar("A")

_LOSS = """
y_pred : array of floating-point numbers
    Probabilities, or logits.
from_logits : bool
    Whether `y_pred` are logits.
epsilon : float
    Probabilities are clipped to [epsilon, 1 - epsilon].
gamma : float >= 0
    The focusing parameter: the larger it is, the less a well-classified $sample counts.
Returns
    array
        The shape of `y_pred` without the class axis.
"""
_BINARY = (
    _LOSS.replace("$sample", "element")
    + """
y_true : array of numbers in [0, 1] or of bool, of the shape of `y_pred`
    Probabilities of the answer 1.
label_smoothing : float in [0, 1]
    s: the target becomes (1 - s) y + s / 2.
axis : int
    The axis to take the mean over.
"""
)
_CATEGORICAL = (
    _LOSS.replace("$sample", "sample")
    + """
y_true : array of the shape of `y_pred`
    Probabilities, or one-hot rows of any dtype.
label_smoothing : float in [0, 1]
    s: the target becomes (1 - s) y + s / C.
axis : int
    The class axis.
"""
)


def _backend(y_true: Any, y_pred: Any, epsilon: float) -> Any:
    number = check_fraction("epsilon", epsilon)
    if not isinstance(number, (int, float)):
        raise TypeError("epsilon must be a number that is known at the call, not a traced value")
    if not number < 0.5:
        raise ValueError(f"epsilon must be at least 0 and less than 0.5, not {epsilon!r}")
    return backend_of(y_pred, "y_pred", y_true=check_given("y_true", y_true))


@loss
@documented(_BINARY)
def binary_crossentropy(
    y_true: Any,
    y_pred: A,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
    *,
    epsilon: float = 1e-7,
) -> Problem[A]:
    """`keras.losses.binary_crossentropy`.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import keras
    >>> keras.binary_crossentropy(np.asarray([[0, 1]]), np.asarray([[0.0, 0.0]])).round(6).tolist()
    [8.059048]
    """
    _backend(y_true, y_pred, epsilon)
    check_target("y_pred", y_pred, "y_true", y_true)
    link = sigmoid if from_logits else ClippedAnswers(float(epsilon))
    options: Any = {"name": "y_pred", "label_smoothing": label_smoothing, "reduction": "none"}
    return averaged(binary(link, CrossEntropy(), y_pred, y_true, **options), axis)


@loss
@documented(_CATEGORICAL)
def categorical_crossentropy(
    y_true: Any,
    y_pred: A,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
    *,
    epsilon: float = 1e-7,
) -> Problem[A]:
    """`keras.losses.categorical_crossentropy`.

    Probabilities are first divided by their sum, as in Keras. For label smoothing, s is divided by the number of
    classes. (If `axis` is not the last one, Keras divides by the size of the last axis instead.)

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import keras
    >>> keras.categorical_crossentropy(np.asarray([[0, 1, 0]]), np.asarray([[0.05, 0.95, 0]])).round(6).tolist()
    [0.051293]
    """
    y = _rows(y_true, y_pred, epsilon)
    return _categorical(y, y_pred, from_logits, epsilon, axis=axis, label_smoothing=label_smoothing)


@loss
@documented(_CATEGORICAL)
def sparse_categorical_crossentropy(
    y_true: Any,
    y_pred: A,
    from_logits: bool = False,
    ignore_class: int | None = None,
    axis: int = -1,
    *,
    epsilon: float = 1e-7,
) -> Problem[A]:
    """`keras.losses.sparse_categorical_crossentropy`.

    A label out of range raises ValueError (under a tracer, its loss is nan). On Keras's JAX and NumPy backends the loss
    is 0, or there is an error; this depends on the backend and on the sign of the label.

    Parameters
    ----------
    y_true : array of integers or whole floats, of the shape of `y_pred` without `axis`, or with length 1 there
        Labels.
    ignore_class : int, optional
        The label of samples whose loss is set to 0. Keras's mean still counts these samples.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import keras
    >>> y_true, y_pred = np.asarray([1, 2, 0]), np.asarray([[0.05, 0.95, 0], [0.1, 0.8, 0.1], [0.5, 0.5, 0]])
    >>> keras.sparse_categorical_crossentropy(y_true, y_pred, ignore_class=0).round(6).tolist()
    [0.051293, 2.302585, 0.0]
    """
    y = _labels(y_true, y_pred, axis, epsilon)
    if ignore_class is not None and not hasattr(ignore_class, "__index__"):
        raise TypeError(f"ignore_class must be an int or None, not {ignore_class!r}")
    return _categorical(y, y_pred, from_logits, epsilon, axis=axis, ignore_index=ignore_class)


@loss
@documented(_BINARY)
def binary_focal_crossentropy(
    y_true: Any,
    y_pred: A,
    apply_class_balancing: bool = False,
    alpha: float = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
    *,
    epsilon: float = 1e-7,
) -> Problem[A]:
    """`keras.losses.binary_focal_crossentropy`.

    Losses of logits are accurate. Keras computes probabilities from the logits and clips these, so its loss is at most
    16.1.

    Parameters
    ----------
    apply_class_balancing : bool
        Whether `alpha` is used.
    alpha : float in [0, 1]
        The factor of the answer 1; that of the answer 0 is 1 - alpha.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import keras
    >>> keras.binary_focal_crossentropy(np.asarray([[0, 1]]), np.asarray([[0.5, 0.5]])).round(6).tolist()
    [0.173287]
    """
    _backend(y_true, y_pred, epsilon)
    link = sigmoid if from_logits else ClippedAnswers(float(epsilon))
    options: Any = {"alpha": alpha if apply_class_balancing else None, "label_smoothing": label_smoothing}
    return averaged(blended_focal(link, y_pred, y_true, ("y_pred", "y_true"), gamma=gamma, **options), axis)


@loss
@documented(_CATEGORICAL)
def categorical_focal_crossentropy(
    y_true: Any,
    y_pred: A,
    alpha: Any = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
    *,
    epsilon: float = 1e-7,
) -> Problem[A]:
    """`keras.losses.categorical_focal_crossentropy`.

    Losses of logits are accurate; Keras computes probabilities from the logits and clips these. Probabilities are first
    divided by their sum. The number of classes for smoothing, and a list of `alpha`, are along `axis`. (If `axis` is
    not the last one, Keras takes both along the last axis.)

    Parameters
    ----------
    alpha : float, or a list or array of one for each class
        A factor of the loss. A single number multiplies the terms of all classes.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import keras
    >>> keras.categorical_focal_crossentropy(np.asarray([[0, 1]]), np.asarray([[0.5, 0.5]])).round(6).tolist()
    [0.043322]
    """
    y = _rows(y_true, y_pred, epsilon)
    p: Any = y_pred
    backend, at = backend_of(p, "y_pred"), check_axis(axis, p.ndim)
    if isinstance(alpha, numbers.Real) or (isinstance(alpha, np.ndarray) and alpha.ndim == 0):
        alpha = float(alpha)
    if not hasattr(alpha, "ndim"):
        alpha = backend.xp.asarray(alpha, dtype=p.dtype, device=backend.device(p))
    backend_of(p, "y_pred", alpha=alpha)
    if alpha.ndim == 0:
        alpha = backend.xp.broadcast_to(alpha, (p.shape[at],))
    check_weights("y_pred", p, "alpha", alpha, at)
    options: Any = {"axis": axis, "class_weight": alpha, "label_smoothing": label_smoothing}
    return _categorical(y, y_pred, from_logits, epsilon, focal_penalty(gamma), **options)


@loss
@documented(_CATEGORICAL)
def kl_divergence(y_true: Any, y_pred: A, *, epsilon: float = 1e-7) -> Problem[A]:
    """`keras.losses.kl_divergence`.

    Both arrays are clipped to [epsilon, 1], and not divided by their sums, as in Keras.

    Parameters
    ----------
    y_true : array of the shape of `y_pred`
        Probabilities.
    y_pred : array of floating-point numbers
        Probabilities.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import keras
    >>> keras.kl_divergence(np.asarray([[0.0, 1.0]]), np.asarray([[0.5, 0.5]])).round(6).tolist()
    [0.693146]
    """
    backend, p = backend_of(y_pred, "y_pred"), y_pred
    y, xp, narrow = _rows(y_true, y_pred, epsilon), backend.xp, y_pred.dtype  # type: ignore[attr-defined]
    p = backend.astype(y_pred, backend.compute_dtype(narrow))
    clipped = xp.clip(p, epsilon, 1.0)
    options: Any = {"names": ("y_pred", "y_true"), "probabilities": True, "reduction": "none", "dtype": narrow}
    made = paired(GivenKullbackLeibler(), xp.log(clipped), xp.clip(y, epsilon, 1.0), **options)
    # Where p was clipped, the derivative is 0.
    return replace(
        made, restore=lambda g: backend.astype(xp.where(clipped == p, g / clipped, xp.zeros_like(g)), narrow)
    )


@loss
@documented(_CATEGORICAL)
def categorical_generalized_cross_entropy(y_true: Any, y_pred: A, q: float) -> Problem[A]:
    """`keras.losses.categorical_generalized_cross_entropy`.

    A label out of range is a ValueError (nan under a tracer), where Keras has the loss 1 / q. Labels of shape (N, 1)
    are those of N samples; the function of Keras gives N x N losses for them.

    Parameters
    ----------
    y_true : array of integers or whole floats, of the shape of `y_pred` without its last axis, or with length 1 there
        Labels.
    y_pred : array of floating-point numbers
        Probabilities, along the last axis; they are neither clipped nor divided by their sum.
    q : float in [0, 1]
        How little a wrong label counts; 0 is the limit, the cross-entropy.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import keras
    >>> keras.categorical_generalized_cross_entropy(np.asarray([1]), np.asarray([[0.75, 0.25]]), 0.5).tolist()
    [1.0]
    """
    power, y = check_fraction("q", q), _labels(y_true, y_pred, -1)
    penalty = CrossEntropy() if isinstance(power, (int, float)) and not power else Generalized(power)
    return categorical(ClippedRows(0.0), penalty, y_pred, y, name="y_pred", ignore_index=None, reduction="none")


def _rows(y_true: Any, y_pred: Any, epsilon: float) -> Any:
    """The target as floating-point numbers: one-hot rows of any dtype are probabilities."""
    backend = _backend(y_true, y_pred, epsilon)
    check_target("y_pred", y_pred, "y_true", y_true)
    if backend.kind(y_true.dtype) == "real floating":
        return y_true
    return backend.astype(y_true, backend.compute_dtype(y_pred.dtype))


def _labels(y_true: Any, y_pred: Any, axis: int, epsilon: float = 0.0) -> Any:
    """Labels without the class axis, as integers."""
    backend = _backend(y_true, y_pred, epsilon)
    if y_true.ndim == y_pred.ndim and y_true.shape[check_axis(axis, y_pred.ndim)] == 1:
        y_true = backend.xp.squeeze(y_true, axis=axis)
    if backend.kind(y_true.dtype) != "integral":
        y_true = backend.xp.astype(y_true, backend.xp.int32)
    check_target("y_pred", y_pred, "y_true", y_true, (axis,))
    return y_true


def _categorical(
    y_true: Any, y_pred: A, from_logits: bool, epsilon: float, penalty: Penalty | None = None, **options: Any
) -> Problem[A]:
    link = softmax if from_logits else ClippedRows(float(epsilon), normalised=True)
    return categorical(link, penalty or CrossEntropy(), y_pred, y_true, name="y_pred", reduction="none", **options)
