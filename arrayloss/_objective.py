"""Losses as the objectives of gradient-boosted trees."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from arrayloss import _checks, _engine
from arrayloss._gradients import problem_of


def objective(loss: Callable[..., Any], /, *, min_hessian: float | None = None, **options: Any) -> Callable[..., Any]:
    r"""A loss as a custom objective of XGBoost and LightGBM: gradient and diagonal Hessian, in closed form.

    Both are the derivatives of each sample's own loss by its raw scores, times the sample's weight; it is the boosters
    that sum them. Neither is ever nan for finite scores, however large.

    Parameters
    ----------
    loss : function
        One of the losses of `arrayloss` that take logits.
    min_hessian : float > 0, optional
        What the second derivatives of a sample that counts are raised to where they are less, before it is weighed.
        Without it they are exact. A focal loss is not convex: where an answer is wrong by a margin of more than 2.8
        (for gamma 2) they are negative, and no booster splits a node of a negative sum. From scores of 5 everywhere,
        say, it would never start; with 0.01 it trains from any scores.
    **options
        Of the loss, `gamma`, `alpha`, `pos_weight`, `class_weight` and `label_smoothing` among them.

    Returns
    -------
    function
        `f(y_true, y_pred, sample_weight=None) -> (gradient, hessian)`: an objective of the scikit-learn classes of both
        (`objective=f`). Called as `f(y_pred, data)` with an XGBoost `DMatrix` or a LightGBM `Dataset`, it takes labels
        and weights from that: an objective of `xgboost.train(obj=f)` and `lightgbm.train({"objective": f})`. Raw
        scores are (N,), or (N, C) with a class axis; gradient and Hessian have their shape and dtype. Labels are
        numbers of any dtype, floats that are whole for classes. It can be pickled.

    Raises
    ------
    TypeError
        If `loss` is not one of these, or options hold a reduction; when called, if it is no loss of logits.
    ValueError
        If `min_hessian` is not above 0; when called, if labels don't fit the scores.

    Notes
    -----
    The built-in multi-class objectives take more than the diagonal of the Hessian p (1 - p): XGBoost 2 p (1 - p), and
    LightGBM C / (C - 1) p (1 - p). Docs/porting.md has how to have their models.

    References
    ----------
    Chen and Guestrin, "XGBoost: A Scalable Tree Boosting System", KDD 2016.
    Friedman, "Greedy Function Approximation: A Gradient Boosting Machine", Annals of Statistics 29 (2001).

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import binary_cross_entropy_with_logits, cross_entropy, objective
    >>> gradient, hessian = objective(binary_cross_entropy_with_logits)(np.asarray([1.0, 0.0]), np.zeros(2))
    >>> gradient.tolist(), hessian.tolist()
    ([-0.5, 0.5], [0.25, 0.25])
    >>> objective(cross_entropy)(np.asarray([1.0]), np.asarray([[0.0, np.log(3.0)]]))[1].round(6).tolist()
    [[0.1875, 0.1875]]
    """
    problem_of(loss, "objective")
    if "reduction" in options:
        raise TypeError("an objective has no reduction: a booster sums over the samples of each leaf")
    if min_hessian is not None and not 0 < _checks.real("min_hessian", min_hessian) < float("inf"):
        raise ValueError(f"min_hessian must be a finite number above 0, not {min_hessian!r}")
    return partial(_derivatives, loss, min_hessian, options)


# A function of the module and no closure: estimators that hold it are pickled. The names are those that XGBoost looks
# for, their number is what LightGBM goes by.
def _derivatives(
    loss: Any, min_hessian: float | None, options: dict[str, Any], y_true: Any, y_pred: Any, sample_weight: Any = None
) -> tuple[Any, Any]:
    if hasattr(y_pred, "get_label"):
        data, y_pred = y_pred, y_true
        y_true, sample_weight = data.get_label(), data.get_weight()
        if sample_weight is not None and len(sample_weight) == 0:
            sample_weight = None  # XGBoost's way to say that there are none
    library = _checks.library(y_pred, "y_pred", y_true=_checks.given("y_true", y_true), sample_weight=sample_weight)
    if y_true.ndim < y_pred.ndim:
        y_true = _labels(library, y_true)
    reduction = "sum" if sample_weight is None else "none"
    problem = problem_of(loss, "objective")(y_pred, y_true, reduction=reduction, **options)
    if sample_weight is not None:
        xp, samples = library.xp, problem.layout.samples
        _checks.same_shape("sample_weight", sample_weight.shape, samples[:1], samples, "there is one for each sample")
        sample_weight = xp.astype(sample_weight, y_pred.dtype)
        sample_weight = xp.broadcast_to(xp.reshape(sample_weight, (-1, *(1 for _ in samples[1:]))), samples)
    _, gradient = _engine.evaluate_with_gradient(problem, sample_weight)
    return gradient, _engine.second_derivatives(problem, sample_weight, min_hessian)


def _labels(library: Any, y: Any) -> Any:
    """Classes as integers: both boosters keep their labels in float32."""
    xp = library.xp
    if not xp.isdtype(y.dtype, "real floating"):
        return y
    labels = xp.astype(y, library.index_dtype(y))
    if library.looks(y) and not bool(xp.all(xp.astype(labels, y.dtype) == y)):
        raise ValueError("y_true must hold whole numbers, the classes, and does not")
    return labels
