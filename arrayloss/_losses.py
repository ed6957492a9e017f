"""The losses: each names its link and its cost, and hands its arguments to the engine."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

from arrayloss import _checks, _kernels
from arrayloss._engine import Problem, binary, categorical, paired
from arrayloss._gradients import loss
from arrayloss._reductions import Reduction

A = TypeVar("A")
_CROSS_ENTROPY = _kernels.CrossEntropy()


def _focal(gamma: float, name: str = "gamma") -> _kernels.CrossEntropy | _kernels.Focal:
    gamma = _checks.focusing(gamma, name)
    return _kernels.Focal(gamma) if gamma else _CROSS_ENTROPY


@loss
def nll_loss(
    log_probs: A,
    target: Any,
    /,
    *,
    axis: int = -1,
    class_weight: Any = None,
    sample_weight: Any = None,
    where: Any = None,
    ignore_index: int | None = -100,
    reduction: str | Reduction = "mean",
    dtype: Any = None,
) -> Problem[A]:
    r"""Negative log-likelihood of log-probabilities: :math:`-\log p_t`.

    In full, :math:`w \sum_c t_c\, w_c\, (-\log p_c)` for each sample, with its weight w and class weights w_c.

    Parameters
    ----------
    log_probs : array of floating-point numbers, at least 1-D
        Log-probabilities, such as `log_softmax` gives.
    target : array of integers, or of floating-point numbers
        Labels, of the shape of `log_probs` without the class axis, or probabilities, of the shape of `log_probs`.
    axis : int
        The class axis.
    class_weight : array of shape (classes,), optional
        A weight for each class.
    sample_weight : array broadcastable to the samples, optional
        A weight for each sample.
    where : array of bool broadcastable to the samples, optional
        Which samples count.
    ignore_index : int or None
        The label of samples that don't count.
    reduction : {"none", "mean", "sum"}, Mean, Sum or Hardest
        From the loss of each sample to the result; "mean" divides by the sum of the weights.
    dtype : dtype, optional
        That of the result, if not that of the logits: a mean in float32 of bfloat16 logits, say.

    Returns
    -------
    array
        0-d, or with `reduction="none"` the loss of each sample; the library, device and dtype
        of `log_probs`; at least 0.

    Raises
    ------
    TypeError
        If an argument is no array or of the wrong dtype, or the arrays are of several libraries.
    ValueError
        If shapes don't fit, an option is out of its range, devices differ, or, on a CPU outside of any tracer, a
        target is out of range (elsewhere such a sample's loss is nan).

    References
    ----------
    Bishop, "Pattern Recognition and Machine Learning" (2006), section 4.3.4.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import log_softmax, nll_loss
    >>> log_probs = log_softmax(np.asarray([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]]))
    >>> round(float(nll_loss(log_probs, np.asarray([0, 1]))), 6)
    0.167234
    """
    return categorical(
        _kernels.given_log,
        _CROSS_ENTROPY,
        log_probs,
        target,
        name="log_probs",
        axis=axis,
        class_weight=class_weight,
        sample_weight=sample_weight,
        where=where,
        ignore_index=ignore_index,
        reduction=reduction,
        dtype=dtype,
    )


@partial(loss, own="cross_entropy")
def cross_entropy(
    logits: A,
    target: Any,
    /,
    *,
    label_smoothing: float = 0.0,
    axis: int = -1,
    class_weight: Any = None,
    sample_weight: Any = None,
    where: Any = None,
    ignore_index: int | None = -100,
    reduction: str | Reduction = "mean",
    dtype: Any = None,
) -> Problem[A]:
    r"""Softmax cross-entropy: :math:`-\log p_t` with :math:`p = \mathrm{softmax}(x)`.

    In full, :math:`w \sum_c t'_c\, w_c\, (-\log p_c)` for each sample, with the smoothed target t', the sample's weight
    w and class weights w_c.

    Parameters
    ----------
    logits : array of floating-point numbers, at least 1-D
        Unbounded scores.
    target : array of integers, or of floating-point numbers
        Labels, of the shape of `logits` without the class axis, or probabilities, of the shape of `logits`.
    label_smoothing : float in [0, 1]
        s: the target becomes :math:`(1 - s)\, t + s / C`.
    axis : int
        The class axis.
    class_weight : array of shape (classes,), optional
        A weight for each class.
    sample_weight : array broadcastable to the samples, optional
        A weight for each sample.
    where : array of bool broadcastable to the samples, optional
        Which samples count.
    ignore_index : int or None
        The label of samples that don't count.
    reduction : {"none", "mean", "sum"}, Mean, Sum or Hardest
        From the loss of each sample to the result; "mean" divides by the sum of the weights.
    dtype : dtype, optional
        That of the result, if not that of the logits: a mean in float32 of bfloat16 logits, say.

    Returns
    -------
    array
        0-d, or with `reduction="none"` the loss of each sample; the library, device and dtype
        of `logits`; at least 0.

    Raises
    ------
    TypeError
        If an argument is no array or of the wrong dtype, or the arrays are of several libraries.
    ValueError
        If shapes don't fit, an option is out of its range, devices differ, or, on a CPU outside of any tracer, a
        target is out of range (elsewhere such a sample's loss is nan).

    References
    ----------
    Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016 (label smoothing).
    Blanchard, Higham and Higham, "Accurately computing the log-sum-exp and softmax functions", IMA Journal of
    Numerical Analysis 41 (2021).

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import cross_entropy
    >>> logits = np.asarray([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    >>> round(float(cross_entropy(logits, np.asarray([0, 1]))), 6)
    0.167234
    >>> cross_entropy(np.asarray([[0.0, 50.0]]), np.asarray([1]), reduction="none").tolist()
    [1.928749847963918e-22]
    """
    return categorical(
        _kernels.softmax,
        _CROSS_ENTROPY,
        logits,
        target,
        label_smoothing=label_smoothing,
        axis=axis,
        class_weight=class_weight,
        sample_weight=sample_weight,
        where=where,
        ignore_index=ignore_index,
        reduction=reduction,
        dtype=dtype,
    )


@loss
def softmax_focal_loss(
    logits: A,
    target: Any,
    /,
    *,
    gamma: float = 2.0,
    alpha: Any = None,
    label_smoothing: float = 0.0,
    axis: int = -1,
    class_weight: Any = None,
    sample_weight: Any = None,
    where: Any = None,
    ignore_index: int | None = -100,
    reduction: str | Reduction = "mean",
    dtype: Any = None,
) -> Problem[A]:
    r"""Focal loss of a softmax: :math:`\alpha_t (1 - p_t)^\gamma (-\log p_t)`.

    In full, :math:`w \sum_c t'_c\, w_c\, \alpha_c (1 - p_c)^\gamma (-\log p_c)` for each sample, with the smoothed
    target t', the sample's weight w and class weights w_c. alpha, unlike class_weight, is no part of the divisor of
    a mean.

    Parameters
    ----------
    logits : array of floating-point numbers, at least 1-D
        Unbounded scores.
    target : array of integers, or of floating-point numbers
        Labels, of the shape of `logits` without the class axis, or probabilities, of the shape of `logits`.
    gamma : float >= 0
        How much less an easy sample counts; 0 is the cross-entropy.
    alpha : array of shape (classes,), in [0, 1], optional
        The share of each class.
    label_smoothing : float in [0, 1]
        s: the target becomes :math:`(1 - s)\, t + s / C`.
    axis : int
        The class axis.
    class_weight : array of shape (classes,), optional
        A weight for each class.
    sample_weight : array broadcastable to the samples, optional
        A weight for each sample.
    where : array of bool broadcastable to the samples, optional
        Which samples count.
    ignore_index : int or None
        The label of samples that don't count.
    reduction : {"none", "mean", "sum"}, Mean, Sum or Hardest
        From the loss of each sample to the result; "mean" divides by the sum of the weights.
    dtype : dtype, optional
        That of the result, if not that of the logits: a mean in float32 of bfloat16 logits, say.

    Returns
    -------
    array
        0-d, or with `reduction="none"` the loss of each sample; the library, device and dtype
        of `logits`; at least 0.

    Raises
    ------
    TypeError
        If an argument is no array or of the wrong dtype, or the arrays are of several libraries.
    ValueError
        If shapes don't fit, an option is out of its range, devices differ, or, on a CPU outside of any tracer, a
        target is out of range (elsewhere such a sample's loss is nan).

    References
    ----------
    Lin, Goyal, Girshick, He and Dollar, "Focal Loss for Dense Object Detection", ICCV 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import softmax_focal_loss
    >>> logits = np.asarray([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    >>> round(float(softmax_focal_loss(logits, np.asarray([0, 1]))), 6)
    0.005824
    """
    return categorical(
        _kernels.softmax,
        _focal(gamma),
        logits,
        target,
        label_smoothing=label_smoothing,
        alpha=alpha,
        axis=axis,
        class_weight=class_weight,
        sample_weight=sample_weight,
        where=where,
        ignore_index=ignore_index,
        reduction=reduction,
        dtype=dtype,
    )


@loss
def poly_loss(
    logits: A,
    target: Any,
    /,
    *,
    epsilon: float = 2.0,
    label_smoothing: float = 0.0,
    axis: int = -1,
    class_weight: Any = None,
    sample_weight: Any = None,
    where: Any = None,
    ignore_index: int | None = -100,
    reduction: str | Reduction = "mean",
    dtype: Any = None,
) -> Problem[A]:
    r"""Poly-1 loss of a softmax: :math:`-\log p_t + \epsilon\, (1 - p_t)`.

    The cross-entropy is :math:`(1 - p_t) + (1 - p_t)^2 / 2 + \ldots`; this changes the weight of the first term. In
    full, :math:`w \sum_c t'_c\, w_c\, (-\log p_c + \epsilon\, (1 - p_c))` for each sample, with the smoothed target t',
    the sample's weight w and class weights w_c.

    Parameters
    ----------
    logits : array of floating-point numbers, at least 1-D
        Unbounded scores.
    target : array of integers, or of floating-point numbers
        Labels, of the shape of `logits` without the class axis, or probabilities, of the shape of `logits`.
    epsilon : float >= -1
        What the first term counts for beside its 1; 0 is the cross-entropy, and -1 leaves the term out. (Less would
        reward an answer for being a little unsure: the loss is no longer at least 0.)
    label_smoothing : float in [0, 1]
        s: the target becomes :math:`(1 - s)\, t + s / C`.
    axis : int
        The class axis.
    class_weight : array of shape (classes,), optional
        A weight for each class.
    sample_weight : array broadcastable to the samples, optional
        A weight for each sample.
    where : array of bool broadcastable to the samples, optional
        Which samples count.
    ignore_index : int or None
        The label of samples that don't count.
    reduction : {"none", "mean", "sum"}, Mean, Sum or Hardest
        From the loss of each sample to the result; "mean" divides by the sum of the weights.
    dtype : dtype, optional
        That of the result, if not that of the logits: a mean in float32 of bfloat16 logits, say.

    Returns
    -------
    array
        0-d, or with `reduction="none"` the loss of each sample; the library, device and dtype
        of `logits`; at least 0.

    Raises
    ------
    TypeError
        If an argument is no array or of the wrong dtype, or the arrays are of several libraries.
    ValueError
        If shapes don't fit, an option is out of its range, devices differ, or, on a CPU outside of any tracer, a
        target is out of range (elsewhere such a sample's loss is nan).

    References
    ----------
    Leng et al., "PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions", ICLR 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import poly_loss
    >>> logits = np.asarray([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    >>> round(float(poly_loss(logits, np.asarray([0, 1]))), 6)
    0.470805
    """
    return categorical(
        _kernels.softmax,
        _kernels.Poly(_checks.at_least("epsilon", -1, epsilon)),
        logits,
        target,
        label_smoothing=label_smoothing,
        axis=axis,
        class_weight=class_weight,
        sample_weight=sample_weight,
        where=where,
        ignore_index=ignore_index,
        reduction=reduction,
        dtype=dtype,
    )


@loss
def kl_divergence(
    logits: A,
    target_logits: Any,
    /,
    *,
    axis: int = -1,
    sample_weight: Any = None,
    where: Any = None,
    reduction: str | Reduction = "mean",
    dtype: Any = None,
) -> Problem[A]:
    r"""Kullback-Leibler divergence of two softmaxes: :math:`\sum_c q_c \log(q_c / p_c)`.

    :math:`p = \mathrm{softmax}(x)` is the student's, of `logits`, and :math:`q = \mathrm{softmax}(t)` the teacher's, of
    `target_logits`; each sample's divergence is multiplied by its weight. Distillation at a temperature T is
    ``T**2 * kl_divergence(x / T, t / T)``. Of a student next to its teacher no digit is lost, in the divergence or in
    either gradient: it is computed from the differences t - x.

    Parameters
    ----------
    logits : array of floating-point numbers, at least 1-D
        Unbounded scores; -inf for a class that is masked out.
    target_logits : array of floating-point numbers
        Unbounded scores, of the shape of `logits`; they get their gradient too. The divergence is inf where p is 0
        and q is not.
    axis : int
        The class axis.
    sample_weight : array broadcastable to the samples, optional
        A weight for each sample.
    where : array of bool broadcastable to the samples, optional
        Which samples count.
    reduction : {"none", "mean", "sum"}, Mean, Sum or Hardest
        From the divergence of each sample to the result; "mean" divides by the sum of the weights, the number of
        samples where there are none.
    dtype : dtype, optional
        That of the result, if not that of the logits: a mean in float32 of bfloat16 logits, say.

    Returns
    -------
    array
        0-d, or with `reduction="none"` the divergence of each sample; the library, device and dtype
        of `logits`; at least 0.

    Raises
    ------
    TypeError
        If an argument is no array or of the wrong dtype, or the arrays are of several libraries.
    ValueError
        If shapes don't fit, an option is out of its range, or devices differ.

    References
    ----------
    Kullback and Leibler, "On Information and Sufficiency", Annals of Mathematical Statistics 22 (1951).
    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531 (2015).

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import kl_divergence
    >>> student, teacher = np.asarray([[0.0, 1.0]]), np.asarray([[1.0, 0.0]])
    >>> round(float(kl_divergence(student, teacher)), 6)
    0.462117
    >>> round(float(kl_divergence(student, student + np.asarray([[1e-9, 0.0]]))) * 1e20, 6)
    9.830597
    """
    return paired(
        _kernels.Divergence,
        logits,
        target_logits,
        name="target_logits",
        axis=axis,
        sample_weight=sample_weight,
        where=where,
        reduction=reduction,
        dtype=dtype,
    )


@loss
def binary_cross_entropy(
    probs: A,
    target: Any,
    /,
    *,
    sample_weight: Any = None,
    where: Any = None,
    ignore_index: int | None = None,
    reduction: str | Reduction = "mean",
    dtype: Any = None,
) -> Problem[A]:
    r"""Binary cross-entropy of probabilities: :math:`-y \log p - (1 - y) \log(1 - p)`.

    From logits, `binary_cross_entropy_with_logits` loses nothing; here what the rounding of p lost is gone.

    Parameters
    ----------
    probs : array of floating-point numbers, any shape
        Probabilities, in [0, 1].
    target : array of bool, integers 0 and 1, or floating-point numbers in [0, 1]
        Of the shape of `probs`.
    sample_weight : array broadcastable to `probs`, optional
        A weight for each element.
    where : array of bool broadcastable to `probs`, optional
        Which elements count.
    ignore_index : int, optional
        The target of elements that don't count.
    reduction : {"none", "mean", "sum"}, Mean, Sum or Hardest
        From the loss of each element to the result; "mean" divides by the sum of the weights.
    dtype : dtype, optional
        That of the result, if not that of `probs`.

    Returns
    -------
    array
        0-d, or with `reduction="none"` the shape of `probs`; its library, device and dtype; at least 0.

    Raises
    ------
    TypeError
        If an argument is no array or of the wrong dtype, or the arrays are of several libraries.
    ValueError
        If shapes don't fit, an option is out of its range, devices differ, or, on a CPU outside of any tracer, a
        target is out of range (elsewhere such a sample's loss is nan).

    References
    ----------
    Bishop, "Pattern Recognition and Machine Learning" (2006), section 4.3.2.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import binary_cross_entropy
    >>> round(float(binary_cross_entropy(np.asarray([0.9, 0.2]), np.asarray([1, 0]))), 6)
    0.164252
    """
    return binary(
        _kernels.given,
        _CROSS_ENTROPY,
        probs,
        target,
        name="probs",
        sample_weight=sample_weight,
        where=where,
        ignore_index=ignore_index,
        reduction=reduction,
        dtype=dtype,
    )


@loss
def binary_cross_entropy_with_logits(
    logits: A,
    target: Any,
    /,
    *,
    pos_weight: Any = None,
    label_smoothing: float = 0.0,
    sample_weight: Any = None,
    where: Any = None,
    ignore_index: int | None = None,
    reduction: str | Reduction = "mean",
    dtype: Any = None,
) -> Problem[A]:
    r"""Binary cross-entropy of logits: :math:`-y \log \sigma(x) - (1 - y) \log \sigma(-x)`.

    Parameters
    ----------
    logits : array of floating-point numbers, any shape
        Unbounded scores.
    target : array of bool, integers 0 and 1, or floating-point numbers in [0, 1]
        Of the shape of `logits`.
    pos_weight : number, or array broadcastable to `logits`, optional
        A factor of the term of the answer 1; no part of the divisor of a mean.
    label_smoothing : float in [0, 1]
        s: the target becomes :math:`(1 - s)\, y + s / 2`.
    sample_weight : array broadcastable to `logits`, optional
        A weight for each element.
    where : array of bool broadcastable to `logits`, optional
        Which elements count.
    ignore_index : int, optional
        The target of elements that don't count.
    reduction : {"none", "mean", "sum"}, Mean, Sum or Hardest
        From the loss of each element to the result; "mean" divides by the sum of the weights.
    dtype : dtype, optional
        That of the result, if not that of `logits`.

    Returns
    -------
    array
        0-d, or with `reduction="none"` the shape of `logits`; its library, device and dtype; at least 0.

    Raises
    ------
    TypeError
        If an argument is no array or of the wrong dtype, or the arrays are of several libraries.
    ValueError
        If shapes don't fit, an option is out of its range, devices differ, or, on a CPU outside of any tracer, a
        target is out of range (elsewhere such a sample's loss is nan).

    References
    ----------
    Bishop, "Pattern Recognition and Machine Learning" (2006), section 4.3.2.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import binary_cross_entropy_with_logits
    >>> x = np.asarray([3.0, -1.0])
    >>> round(float(binary_cross_entropy_with_logits(x, np.asarray([True, False]))), 6)
    0.180925
    """
    return binary(
        _kernels.sigmoid,
        _CROSS_ENTROPY,
        logits,
        target,
        pos_weight=pos_weight,
        label_smoothing=label_smoothing,
        sample_weight=sample_weight,
        where=where,
        ignore_index=ignore_index,
        reduction=reduction,
        dtype=dtype,
    )


@loss
def sigmoid_focal_loss(
    logits: A,
    target: Any,
    /,
    *,
    gamma: float = 2.0,
    alpha: Any = None,
    pos_weight: Any = None,
    label_smoothing: float = 0.0,
    sample_weight: Any = None,
    where: Any = None,
    ignore_index: int | None = None,
    reduction: str | Reduction = "mean",
    dtype: Any = None,
) -> Problem[A]:
    r"""Focal loss of a sigmoid: :math:`\alpha_y (1 - p_y)^\gamma (-\log p_y)`.

    :math:`p_1 = \sigma(x)` is the probability of the answer 1 and :math:`p_0 = \sigma(-x)` that of 0; a target between
    them weighs the two terms with y and 1 - y.

    Parameters
    ----------
    logits : array of floating-point numbers, any shape
        Unbounded scores.
    target : array of bool, integers 0 and 1, or floating-point numbers in [0, 1]
        Of the shape of `logits`.
    gamma : float >= 0
        How much less an easy element counts; 0 is the cross-entropy.
    alpha : number or 0-d array, in [0, 1], optional
        The share of the answer 1; that of 0 is 1 - alpha. Without it both terms count in full.
    pos_weight : number, or array broadcastable to `logits`, optional
        A further factor of the term of the answer 1.
    label_smoothing : float in [0, 1]
        s: the target becomes :math:`(1 - s)\, y + s / 2`.
    sample_weight : array broadcastable to `logits`, optional
        A weight for each element.
    where : array of bool broadcastable to `logits`, optional
        Which elements count.
    ignore_index : int, optional
        The target of elements that don't count.
    reduction : {"none", "mean", "sum"}, Mean, Sum or Hardest
        From the loss of each element to the result; "mean" divides by the sum of the weights.
    dtype : dtype, optional
        That of the result, if not that of `logits`.

    Returns
    -------
    array
        0-d, or with `reduction="none"` the shape of `logits`; its library, device and dtype; at least 0.

    Raises
    ------
    TypeError
        If an argument is no array or of the wrong dtype, or the arrays are of several libraries.
    ValueError
        If shapes don't fit, an option is out of its range, devices differ, or, on a CPU outside of any tracer, a
        target is out of range (elsewhere such a sample's loss is nan).

    References
    ----------
    Lin, Goyal, Girshick, He and Dollar, "Focal Loss for Dense Object Detection", ICCV 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import sigmoid_focal_loss
    >>> x = np.asarray([3.0, -1.0])
    >>> round(float(sigmoid_focal_loss(x, np.asarray([1, 0]), alpha=0.25)), 6)
    0.00851
    """
    return binary(
        _kernels.sigmoid,
        _focal(gamma),
        logits,
        target,
        pos_weight=pos_weight,
        alpha=alpha,
        label_smoothing=label_smoothing,
        sample_weight=sample_weight,
        where=where,
        ignore_index=ignore_index,
        reduction=reduction,
        dtype=dtype,
    )


@loss
def asymmetric_loss(
    logits: A,
    target: Any,
    /,
    *,
    gamma_positive: float = 1.0,
    gamma_negative: float = 4.0,
    margin: float = 0.05,
    pos_weight: Any = None,
    label_smoothing: float = 0.0,
    sample_weight: Any = None,
    where: Any = None,
    ignore_index: int | None = None,
    reduction: str | Reduction = "mean",
    dtype: Any = None,
) -> Problem[A]:
    r"""Asymmetric loss of a sigmoid: one focal loss for the answer 1, and another, shifted one for the answer 0.

    :math:`(1 - p)^{\gamma_+} (-\log p)` and :math:`p_m^{\gamma_-} (-\log(1 - p_m))`, of :math:`p = \sigma(x)` and
    :math:`p_m = \max(p - m, 0)`; a target between them weighs the two with y and 1 - y. What is surely not there, p at
    most m, costs nothing, and pulls nothing, at p = m included. The gradient is that of the loss as it stands (the
    authors' code by default takes the powers for constants).

    Parameters
    ----------
    logits : array of floating-point numbers, any shape
        Unbounded scores.
    target : array of bool, integers 0 and 1, or floating-point numbers in [0, 1]
        Of the shape of `logits`.
    gamma_positive : float >= 0
        How much less an easy element of the answer 1 counts.
    gamma_negative : float >= 0
        The same for the answer 0.
    margin : float in [0, 1]
        m: up to which probability the answer 0 is right enough.
    pos_weight : number, or array broadcastable to `logits`, optional
        A factor of the term of the answer 1; no part of the divisor of a mean.
    label_smoothing : float in [0, 1]
        s: the target becomes :math:`(1 - s)\, y + s / 2`.
    sample_weight : array broadcastable to `logits`, optional
        A weight for each element.
    where : array of bool broadcastable to `logits`, optional
        Which elements count.
    ignore_index : int, optional
        The target of elements that don't count.
    reduction : {"none", "mean", "sum"}, Mean, Sum or Hardest
        From the loss of each element to the result; "mean" divides by the sum of the weights (the authors sum).
    dtype : dtype, optional
        That of the result, if not that of `logits`.

    Returns
    -------
    array
        0-d, or with `reduction="none"` the shape of `logits`; its library, device and dtype; at least 0.

    Raises
    ------
    TypeError
        If an argument is no array or of the wrong dtype, or the arrays are of several libraries.
    ValueError
        If shapes don't fit, an option is out of its range, devices differ, or, on a CPU outside of any tracer, a
        target is out of range (elsewhere such a sample's loss is nan).

    References
    ----------
    Ridnik et al., "Asymmetric Loss For Multi-Label Classification", ICCV 2021; the defaults are those of the
    authors' code, https://github.com/Alibaba-MIIL/ASL.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import asymmetric_loss
    >>> x = np.asarray([3.0, -1.0, -3.0])
    >>> asymmetric_loss(x, np.asarray([1, 0, 0]), reduction="none").round(6).tolist()
    [0.002304, 0.000568, 0.0]
    """
    margin = _checks.fraction("margin", margin)
    negative = _focal(gamma_negative, "gamma_negative")
    return binary(
        _kernels.sigmoid,
        _focal(gamma_positive, "gamma_positive"),
        logits,
        target,
        cost_of_zero=_kernels.Shifted(negative, margin) if margin else negative,
        pos_weight=pos_weight,
        label_smoothing=label_smoothing,
        sample_weight=sample_weight,
        where=where,
        ignore_index=ignore_index,
        reduction=reduction,
        dtype=dtype,
    )
