"""The losses. Each function names what its probabilities are made of (a link) and what a probability costs (a penalty).

`**options` are the options that several losses share. `arrayloss._options` has their types, defaults and descriptions;
the decorator `loss` adds them to the signature and the docstring.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, TypeVar, Unpack

from arrayloss import _checks
from arrayloss._kernels.divergence import GivenJensenShannon, GivenKullbackLeibler, JensenShannon, KullbackLeibler
from arrayloss._kernels.penalties import CrossEntropy, Focal, Generalized, Penalty, Poly, Shifted, Symmetric
from arrayloss._kernels.sigmoid import given_probabilities, sigmoid
from arrayloss._kernels.softmax import Tempered, WithZLoss, given_log_probabilities, softmax
from arrayloss._options import AnswerOptions, ClassOptions, LabelOptions, RowOptions, Scalar
from arrayloss._problem import Problem, binary, categorical, linear, paired
from arrayloss.gradients import loss

A = TypeVar("A")
_CROSS_ENTROPY = CrossEntropy()
_LOG_ZERO = math.log(1e-4)


def _tempered(problem: Problem[A], temperature: Scalar, *, both: bool = False) -> Problem[A]:
    divisor = _checks.above_zero("temperature", temperature)
    if not _checks.traced(divisor) and divisor == 1:
        return problem
    kernel: Any = problem.kernel
    if isinstance(kernel, WithZLoss):
        # The z-loss term takes the logits as given, not divided.
        return replace(problem, kernel=replace(kernel, loss=Tempered(kernel.loss, divisor)))
    return replace(problem, kernel=Tempered(kernel, divisor, both))


def _focal_by_array(gamma: Scalar) -> tuple[Penalty, dict[str, Any]]:
    """The penalty, and gamma by its name if it is an array (or a list, for which the checks raise an error)."""
    # isinstance comes first: torch.compile can't trace getattr of a symbolic number.
    if not isinstance(gamma, (int, float)) and (isinstance(gamma, (list, tuple)) or getattr(gamma, "shape", None)):
        return Focal(None), {"gamma": gamma}
    return _focal(gamma), {}


def _focal(gamma: Scalar, name: str = "gamma") -> Penalty:
    exponent = _checks.focusing(gamma, name)
    return Focal(exponent) if _checks.traced(exponent) or exponent else _CROSS_ENTROPY


@loss
def nll_loss(log_probs: A, target: Any, /, **options: Unpack[LabelOptions]) -> Problem[A]:
    r"""Negative log-likelihood of log-probabilities: :math:`-\log p_t`.

    The loss of a sample is :math:`w \sum_c t_c\, w_c\, (-\log p_c)`.

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
    return categorical(given_log_probabilities, _CROSS_ENTROPY, log_probs, target, name="log_probs", **options)


@loss
def cross_entropy(
    logits: A, target: Any, /, *, temperature: Scalar = 1.0, z_loss: Scalar = 0.0, **options: Unpack[ClassOptions]
) -> Problem[A]:
    r"""Softmax cross-entropy: :math:`-\log p_t` with :math:`p = \mathrm{softmax}(x / T)`.

    The loss of a sample is :math:`w \sum_c (t'_c\, w_c\, (-\log p_c) + t_c\, w_c\, z\, (\log \sum_j e^{x_j})^2)`. It is
    accurate also if the probability of the label is close to 1, and the loss close to 0.

    Parameters
    ----------
    temperature : scalar > 0
        T: the logits are divided by it. The gradient has a factor 1 / T. If the target is a teacher's probabilities at
        the same temperature, the gradient is proportional to 1 / T^2 for large T; for distillation, multiply the loss
        by T^2.
    z_loss : scalar >= 0
        z: the factor of a second term, which keeps the logarithm of the sum of exponentials close to 0. `temperature`
        does not change this term. PaLM was trained with 1e-4.

    References
    ----------
    Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016 (label smoothing).
    Blanchard, Higham and Higham, "Accurately computing the log-sum-exp and softmax functions", IMA Journal of
    Numerical Analysis 41 (2021).
    Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", JMLR 24 (2023) (z-loss).

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import cross_entropy
    >>> logits = np.asarray([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    >>> round(float(cross_entropy(logits, np.asarray([0, 1]))), 6)
    0.167234
    >>> f"{float(cross_entropy(np.asarray([[0.0, 50.0]]), np.asarray([1]))):.6g}"
    '1.92875e-22'
    """
    return _tempered(categorical(softmax, _CROSS_ENTROPY, logits, target, z_loss=z_loss, **options), temperature)


@loss
def linear_cross_entropy(
    hidden: A,
    weight: Any,
    target: Any,
    /,
    *,
    bias: Any = None,
    softcap: Scalar | None = None,
    z_loss: Scalar = 0.0,
    **options: Unpack[ClassOptions],
) -> Problem[A]:
    r"""The `cross_entropy` of a linear layer's output, x = hidden @ weight.T + bias, a few rows of x at a time.

    For a large vocabulary the logits x take most of a model's memory. This function computes the logits of a few rows
    at a time, and keeps only the loss and the gradients, which are computed in the same pass. The results are those of
    `cross_entropy` of the logits; the logits have the rounding of the library's own matrix product.

    All logits are computed at once in `torch.export` and in transforms of `torch.func`, in forward mode, for a second
    derivative, with traced options, for DTensors and arrays on a JAX mesh with explicit axes, and for a derivative with
    respect to the target or to a weight of classes or samples. `jax.jvp` raises a TypeError.

    Parameters
    ----------
    hidden : array of floating-point numbers, at least 1-D
        The input of the layer: its features lie along `axis`.
    weight : array of shape (classes, features)
        The weight of the layer.
    target : array of integers or floating-point numbers
        Integers are labels, from 0 on, in the shape of `hidden` without `axis`. Floating-point numbers are the
        probabilities of all classes, which lie along `axis`.
    bias : array of shape (classes,), optional
        The bias of the layer.
    softcap : scalar > 0, optional
        s: the logits are :math:`s \tanh(x / s)`.
    z_loss : scalar >= 0
        As in `cross_entropy`.
    axis : int
        The axis of the features of `hidden`; in its place the logits have the classes.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype, or the arrays belong to different libraries.
    ValueError
        If a shape does not fit, an option is out of its range, or the arrays are on different devices. Also if a target
        is out of its range, on a CPU and outside of traced or compiled functions; elsewhere that loss is NaN.

    References
    ----------
    Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", ICLR 2025.
    Gemma Team, "Gemma 2: Improving Open Language Models at a Practical Size", arXiv:2408.00118 (softcap).

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import linear_cross_entropy, value_and_grad
    >>> hidden, weight = np.asarray([[1.0, 2.0]]), np.asarray([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> value, gradients = value_and_grad(linear_cross_entropy)(hidden, weight, np.asarray([1]))
    >>> round(float(value), 6), gradients.hidden.round(6).tolist()
    (0.349012, [[0.224377, -0.294615]])
    """
    return linear(softmax, _CROSS_ENTROPY, hidden, weight, target, bias=bias, softcap=softcap, z_loss=z_loss, **options)


@loss
def softmax_focal_loss(
    logits: A, target: Any, /, *, gamma: Scalar = 2.0, alpha: Any = None, **options: Unpack[ClassOptions]
) -> Problem[A]:
    r"""Focal loss of a softmax: :math:`\alpha_t (1 - p_t)^\gamma (-\log p_t)`.

    The loss of a sample is :math:`w \sum_c t'_c\, w_c\, \alpha_c (1 - p_c)^\gamma (-\log p_c)`, with
    :math:`p = \mathrm{softmax}(x)`.

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
    penalty, parameter = _focal_by_array(gamma)
    return categorical(softmax, penalty, logits, target, parameter=parameter, alpha=alpha, **options)


@loss
def poly_loss(logits: A, target: Any, /, *, epsilon: Scalar = 2.0, **options: Unpack[ClassOptions]) -> Problem[A]:
    r"""Poly-1 loss of a softmax: :math:`-\log p_t + \epsilon\, (1 - p_t)`.

    The loss of a sample is :math:`w \sum_c t'_c\, w_c\, (-\log p_c + \epsilon\, (1 - p_c))`. The cross-entropy is the
    series :math:`(1 - p_t) + (1 - p_t)^2 / 2 + \ldots`; this loss changes the factor of the first term.

    Parameters
    ----------
    epsilon : scalar >= -1
        A number that is added to the factor of the first term, which is 1. 0 gives the cross-entropy, and -1 leaves the
        term out. (Below -1, the loss could be negative.)

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
    return categorical(softmax, Poly(_checks.at_least("epsilon", -1, epsilon)), logits, target, **options)


@loss
def generalized_cross_entropy(
    logits: A, target: Any, /, *, q: Scalar = 0.7, **options: Unpack[ClassOptions]
) -> Problem[A]:
    r"""Generalised cross-entropy of a softmax, for noisy labels: :math:`(1 - p_t^q) / q`.

    The loss of a sample is :math:`w \sum_c t'_c\, w_c\, (1 - p_c^q) / q`, with :math:`p = \mathrm{softmax}(x)`. For a
    label it is at most 1 / q, and its gradient is :math:`p_t^q` times that of the cross-entropy, so that samples whose
    label may be wrong count little.

    Parameters
    ----------
    q : scalar in [0, 1]
        How little a wrong label counts: 0 gives the cross-entropy, and 1 gives 1 - p.

    References
    ----------
    Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels", NeurIPS
    2018.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import generalized_cross_entropy
    >>> logits = np.asarray([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    >>> round(float(generalized_cross_entropy(logits, np.asarray([0, 1]))), 6)
    0.156188
    """
    power = _checks.fraction("q", q)
    penalty: Penalty = Generalized(power) if _checks.traced(power) or power else _CROSS_ENTROPY
    return categorical(softmax, penalty, logits, target, **options)


@loss
def symmetric_cross_entropy(
    logits: A,
    target: Any,
    /,
    *,
    alpha: Scalar = 0.1,
    beta: Scalar = 1.0,
    log_zero: Scalar = _LOG_ZERO,
    **options: Unpack[ClassOptions],
) -> Problem[A]:
    r"""Symmetric cross-entropy of a softmax, for noisy labels: :math:`\alpha (-\log p_t) - \beta A\, (1 - p_t)`.

    The loss is alpha times the cross-entropy of the target and p, plus beta times the reverse cross-entropy, of p and
    the target. There, :math:`\log 0` is replaced by a constant A, so that for a label the reverse cross-entropy is
    :math:`-A (1 - p_t)`. The loss of a sample is
    :math:`w \sum_c t'_c\, w_c\, (\alpha (-\log p_c) - \beta A\, (1 - p_c))`: for a soft target, it is the mean of the
    losses of the labels, weighted by their probabilities.

    Parameters
    ----------
    alpha : scalar >= 0
        The weight of the cross-entropy.
    beta : scalar >= 0
        The weight of the reverse cross-entropy.
    log_zero : scalar <= 0
        A: the number that stands for the logarithm of 0.

    References
    ----------
    Wang et al., "Symmetric Cross Entropy for Robust Learning with Noisy Labels", ICCV 2019; the defaults are
    those of the paper for CIFAR-10, and A is that of the authors' code, log(1e-4).

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import symmetric_cross_entropy
    >>> logits = np.asarray([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    >>> round(float(symmetric_cross_entropy(logits, np.asarray([0, 1]))), 6)
    1.414719
    """
    reverse = _checks.at_least("beta", 0, beta) * _checks.at_least("-log_zero", 0, -_checks.real("log_zero", log_zero))
    return categorical(softmax, Symmetric(_checks.at_least("alpha", 0, alpha), reverse), logits, target, **options)


@loss
def kl_divergence(log_probs: A, probs: Any, /, **options: Unpack[RowOptions]) -> Problem[A]:
    r"""Kullback-Leibler divergence of log-probabilities and probabilities: :math:`\sum_c q_c (\log q_c - \log p_c)`.

    The arguments are those of `torch.nn.functional.kl_div` and `optax.kl_divergence`: the model's :math:`\log p` and
    the target's q. The loss of a sample is this sum times its weight, and inf if a class has p = 0 and q > 0. A class
    with q = 0 adds 0. The loss is at least 0 if p and q each sum to 1; because probabilities are rounded, their sums
    differ slightly from 1, and the loss may be slightly below 0. For two arrays of logits,
    `kl_divergence_with_logits` is more accurate where they are almost equal.

    References
    ----------
    Kullback and Leibler, "On Information and Sufficiency", Annals of Mathematical Statistics 22 (1951).

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import kl_divergence
    >>> log_p, q = np.log(np.asarray([[0.5, 0.5]])), np.asarray([[1.0, 0.0]])
    >>> round(float(kl_divergence(log_p, q)), 6)
    0.693147
    """
    return paired(GivenKullbackLeibler(), log_probs, probs, names=("log_probs", "probs"), probabilities=True, **options)


@loss
def kl_divergence_with_logits(
    logits: A, target_logits: Any, /, *, temperature: Scalar = 1.0, **options: Unpack[RowOptions]
) -> Problem[A]:
    r"""Kullback-Leibler divergence of two softmaxes: :math:`\sum_c q_c \log(q_c / p_c)`.

    The student's probabilities are :math:`p = \mathrm{softmax}(x)`, of `logits`, and the teacher's are
    :math:`q = \mathrm{softmax}(t)`, of `target_logits`. The loss of a sample is this sum times its weight. The
    divergence and its gradients are computed from the differences t - x, so that they are accurate also where the two
    are almost equal. It is inf if the student has a logit of -inf for a class and the teacher has not.

    Parameters
    ----------
    temperature : scalar > 0
        T, by which both arrays of logits are divided. The gradient with respect to the student's logits is
        (p - q) / T. For large T it is proportional to 1 / T^2; for distillation, multiply the loss by T^2.

    References
    ----------
    Kullback and Leibler, "On Information and Sufficiency", Annals of Mathematical Statistics 22 (1951).
    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531 (2015).

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import kl_divergence_with_logits
    >>> student, teacher = np.asarray([[0.0, 1.0]]), np.asarray([[1.0, 0.0]])
    >>> round(float(kl_divergence_with_logits(student, teacher)), 6)
    0.462117
    >>> round(float(kl_divergence_with_logits(student, student + np.asarray([[1e-9, 0.0]]))) * 1e20, 3)
    9.831
    """
    made = paired(KullbackLeibler(), logits, target_logits, names=("logits", "target_logits"), **options)
    return _tempered(made, temperature, both=True)


@loss
def js_divergence(log_probs: A, probs: Any, /, **options: Unpack[RowOptions]) -> Problem[A]:
    r"""Jensen-Shannon divergence of log-probabilities and probabilities: the mean divergence of both from (p + q) / 2.

    With :math:`m = (p + q) / 2`, the loss of a sample is
    :math:`\sum_c (p_c \log(p_c / m_c) + q_c \log(q_c / m_c)) / 2`, times its weight. It is symmetric in p and q, and at
    most :math:`\log 2`.

    References
    ----------
    Lin, "Divergence Measures Based on the Shannon Entropy", IEEE Transactions on Information Theory 37 (1991).

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import js_divergence
    >>> log_p, q = np.log(np.asarray([[0.5, 0.5]])), np.asarray([[1.0, 0.0]])
    >>> round(float(js_divergence(log_p, q)), 6)
    0.215762
    """
    return paired(GivenJensenShannon(), log_probs, probs, names=("log_probs", "probs"), probabilities=True, **options)


@loss
def js_divergence_with_logits(logits: A, target_logits: Any, /, **options: Unpack[RowOptions]) -> Problem[A]:
    r"""Jensen-Shannon divergence of two softmaxes.

    With :math:`p = \mathrm{softmax}(x)`, :math:`q = \mathrm{softmax}(t)` and :math:`m = (p + q) / 2`, the loss of a
    sample is :math:`\sum_c (p_c \log(p_c / m_c) + q_c \log(q_c / m_c)) / 2`, times its weight. It is symmetric in p and
    q, at most :math:`\log 2`, and accurate also where the two are almost equal.

    References
    ----------
    Lin, "Divergence Measures Based on the Shannon Entropy", IEEE Transactions on Information Theory 37 (1991).

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import js_divergence_with_logits
    >>> x, t = np.asarray([[0.0, 1.0]]), np.asarray([[1.0, 0.0]])
    >>> round(float(js_divergence_with_logits(x, t)), 6)
    0.110944
    """
    return paired(JensenShannon(), logits, target_logits, names=("logits", "target_logits"), **options)


@loss
def binary_cross_entropy(probs: A, target: Any, /, **options: Unpack[AnswerOptions]) -> Problem[A]:
    r"""Binary cross-entropy of probabilities: :math:`-y \log p - (1 - y) \log(1 - p)`.

    If you have the logits, use `binary_cross_entropy_with_logits`. It is more accurate, because a probability close to
    1 has already lost digits by rounding.

    Parameters
    ----------
    probs : array of floating-point numbers, any shape
        The probability of the answer 1, in [0, 1].

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
    return binary(given_probabilities, _CROSS_ENTROPY, probs, target, name="probs", **options)


@loss
def binary_cross_entropy_with_logits(logits: A, target: Any, /, **options: Unpack[AnswerOptions]) -> Problem[A]:
    r"""Binary cross-entropy of logits: :math:`-y \log \sigma(x) - (1 - y) \log \sigma(-x)`.

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
    return binary(sigmoid, _CROSS_ENTROPY, logits, target, **options)


@loss
def sigmoid_focal_loss(
    logits: A, target: Any, /, *, gamma: Scalar = 2.0, alpha: Scalar | None = None, **options: Unpack[AnswerOptions]
) -> Problem[A]:
    r"""Focal loss of a sigmoid: :math:`\alpha_y (1 - p_y)^\gamma (-\log p_y)`.

    :math:`p_1 = \sigma(x)` is the probability of the answer 1, and :math:`p_0 = \sigma(-x)` that of the answer 0. For a
    target y between 0 and 1, the loss is y times that of the answer 1 plus 1 - y times that of the answer 0.

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
    penalty, parameter = _focal_by_array(gamma)
    return binary(sigmoid, penalty, logits, target, parameter=parameter, alpha=alpha, **options)


@loss
def asymmetric_loss(
    logits: A,
    target: Any,
    /,
    *,
    gamma_positive: Scalar = 1.0,
    gamma_negative: Scalar = 4.0,
    margin: Scalar = 0.05,
    **options: Unpack[AnswerOptions],
) -> Problem[A]:
    r"""Asymmetric loss of a sigmoid: one focal loss for the answer 1, and another, shifted one for the answer 0.

    The answer 1 costs :math:`(1 - p)^{\gamma_+} (-\log p)`, with :math:`p = \sigma(x)`, and the answer 0 costs
    :math:`p_m^{\gamma_-} (-\log(1 - p_m))`, with :math:`p_m = \max(p - m, 0)`. For a target y between 0 and 1,
    the loss is y times the first plus 1 - y times the second. An answer 0 with p at most m has loss 0 and gradient 0.
    The gradient is the derivative of the whole formula; the code of the authors, by default, treats the powers as
    constants. The authors use the sum of the losses.

    Parameters
    ----------
    gamma_positive : scalar >= 0
        The focusing parameter of the answer 1.
    gamma_negative : scalar >= 0
        The focusing parameter of the answer 0.
    margin : scalar in [0, 1]
        m: up to this probability, the loss of the answer 0 is 0.

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
    shift = _checks.fraction("margin", margin)
    negative = _focal(gamma_negative, "gamma_negative")
    return binary(
        sigmoid,
        _focal(gamma_positive, "gamma_positive"),
        logits,
        target,
        penalty_of_zero=Shifted(negative, shift) if _checks.traced(shift) or shift else negative,
        **options,
    )
