"""The loss of `sklearn.metrics` (scikit-learn 1.9) that `arrayloss` has too, on any array."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import numpy as np

from arrayloss import Mean
from arrayloss.compat.shared import ClippedAnswers, ClippedRows
from arrayloss.extending import CrossEntropy, Problem, backend_of, binary, categorical, check_given, check_within, loss

A = TypeVar("A")


def _codes(y_true: Any, labels: Any) -> tuple[Any, int]:
    """The index of each label among the sorted labels, and the number of these."""
    y = np.asarray(y_true)
    known = np.unique(y if labels is None else np.asarray(labels))
    if known.size < 2:
        raise ValueError(f"log_loss needs two labels at least, and there is {known.tolist()}; pass labels=")
    codes = np.minimum(np.searchsorted(known, y), known.size - 1)
    unknown = known[codes] != y
    if unknown.any():
        raise ValueError(f"y_true holds {np.unique(y[unknown]).tolist()}, which labels={known.tolist()} does not")
    return codes, known.size


@loss
def log_loss(
    y_true: Any,
    y_proba: A | None = None,
    *,
    normalize: bool = True,
    sample_weight: Any = None,
    labels: Any = None,
    y_pred: A | Literal["deprecated"] = "deprecated",
) -> Problem[A]:
    """`sklearn.metrics.log_loss`.

    Probabilities are clipped to [eps, 1 - eps], with the eps of their dtype, as in scikit-learn since 1.3. If they do
    not sum to 1, they are used as they are (scikit-learn also warns). The result is a 0-d array of the library of
    `y_proba` and not a float, so that it has a gradient with respect to the probabilities. The labels are read, so they
    cannot be traced.

    Parameters
    ----------
    y_true : array or list of N labels, or of 0 and 1, (N, C)
        Labels of any kind, also strings. Or an array (N, C) with 1 for the right classes of each sample, and 0 for the
        others.
    y_proba : array of floating-point numbers, (N, C), (N, 1) or (N,)
        Probabilities of the classes, in the order of the sorted labels. With two classes, the probabilities of the
        second one are enough.
    normalize : bool
        Whether to divide by the sum of the weights.
    sample_weight : array of shape (N,), optional
        A weight for each sample.
    labels : array or list, optional
        All labels, in case `y_true` does not contain each of them.
    y_pred : array
        What `y_proba` was called before scikit-learn 1.9.

    Returns
    -------
    array
        0-d.

    Raises
    ------
    ValueError
        If there are fewer than two labels, if the number of labels is not the number of columns, or if `y_true` has a
        label that is not in `labels`. If the arrays have different numbers of samples. Outside of a tracer, if a
        probability is not in [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat.sklearn import log_loss
    >>> p = np.asarray([[0.1, 0.9], [0.9, 0.1], [0.8, 0.2], [0.35, 0.65]])
    >>> round(float(log_loss(["spam", "ham", "ham", "spam"], p)), 6)
    0.216162
    """
    if not isinstance(y_pred, str):
        if y_proba is not None:
            raise TypeError("y_pred is the old name of y_proba; pass one of the two")
        y_proba = y_pred
    p: Any = check_given("y_proba", y_proba)
    backend = backend_of(p, "y_proba", sample_weight=sample_weight)
    xp: Any = backend.xp
    if p.ndim not in (1, 2):
        raise ValueError(f"y_proba must have shape (N, C), (N, 1) or (N,), not {tuple(p.shape)}")
    if backend.can_inspect(p):
        check_within("y_proba", backend, p)
    columns = 1 if p.ndim == 1 else p.shape[1]
    eps = float(xp.finfo(p.dtype).eps)
    y_true = check_given("y_true", y_true)
    if not hasattr(y_true, "ndim"):
        y_true = np.asarray(y_true)
    if y_true.ndim == 2 and y_true.shape[1] > 1:
        target, classes = y_true, y_true.shape[1]
        if not backend.owns(target):
            target = xp.asarray(np.asarray(target), device=backend.device(p))
        target = xp.astype(target, p.dtype)
    else:
        codes, classes = _codes(y_true, labels)
        target = xp.asarray(codes.reshape(-1), device=backend.device(p))
    if classes != max(columns, 2):
        raise ValueError(f"there are {classes} labels, and y_proba has {columns} columns; pass labels=")
    for name, of_samples in (("y_true", target), ("sample_weight", sample_weight)):
        if of_samples is not None and of_samples.shape[0] != p.shape[0]:
            raise ValueError(f"y_proba is of {p.shape[0]} samples and {name} of {of_samples.shape[0]}")
    weight: Any = "all" if sample_weight is None else backend.sum(sample_weight)
    options: Any = {"name": "y_proba", "ignore_index": None, "reduction": Mean(over=weight) if normalize else "sum"}
    if columns > 1:
        return categorical(ClippedRows(eps), CrossEntropy(), p, target, sample_weight=sample_weight, **options)
    if target.ndim == 2:
        # Rows of two numbers, 0 or 1: which classes are right, maybe both or neither.
        right = target[:, 0] + target[:, 1]
        sample_weight = right if sample_weight is None else right * xp.astype(sample_weight, p.dtype)
        target = target[:, 1] / xp.where(right == 0, xp.ones_like(right), right)
    one, weights = (a if a is None else xp.reshape(a, p.shape) for a in (target, sample_weight))
    return binary(ClippedAnswers(eps), CrossEntropy(), p, one, sample_weight=weights, **options)
