"""The losses of `torch.nn.functional` (PyTorch 2.13), on any array.

Positional order, names and defaults are theirs, and the class axis is 1 (0 for a single sample). What differs is said
in each function; in all of them a label out of range raises ValueError (nan under a tracer or on an accelerator, where
torch ends the process's CUDA context), a sample that is ignored or weighs 0 contributes 0 also where its logits are
nan, and a term 0 * inf is 0, where torch has nan.
"""

from __future__ import annotations

from typing import Any, TypeVar

import arrayloss
from arrayloss import Mean, _checks, _kernels
from arrayloss import _losses as core
from arrayloss._engine import Problem, binary, categorical
from arrayloss._gradients import loss
from arrayloss._modes import Array, Traced
from arrayloss._reductions import Reduction
from arrayloss.compat import _problems

A = TypeVar("A")
_LEAST = 9.999999960041972e-13  # torch's 1e-12, which is a float32 for every dtype


def _implicit(x: Any, dim: int | None) -> int:
    return (0 if x.ndim in (0, 1, 3) else 1) if dim is None else dim


def _cast(x: A, dtype: Any) -> A:
    if dtype is None:
        return x
    xp: Any = _checks.library(x, "input").xp
    cast: A = xp.astype(x, dtype)
    return cast


def _reduction(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """`reduction`, or what the two arguments that it replaced say."""
    if size_average is None and reduce is None:
        return reduction
    if reduce is False:
        return "none"
    return "sum" if size_average is False else "mean"


def _over_all(reduction: str) -> str | Reduction:
    return Mean(over="all") if reduction == "mean" else reduction


def softmax(input: A, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> A:
    """`torch.nn.functional.softmax`.

    Parameters
    ----------
    input : array of floating-point numbers
        Logits.
    dim : int, optional
        The class axis. None is torch's old guess, without its warning: 0 where `input` has 1 or 3 dimensions, else 1.
    _stacklevel : int
        Without effect.
    dtype : dtype, optional
        To cast `input` to first.

    Returns
    -------
    array
        The shape of `input`.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import torch as F
    >>> F.softmax(np.asarray([[0.0, np.log(3.0)]]), 1).round(6).tolist()
    [[0.25, 0.75]]
    """
    return arrayloss.softmax(_cast(input, dtype), axis=_implicit(input, dim))


def log_softmax(input: A, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> A:
    """`torch.nn.functional.log_softmax`.

    Where torch returns exactly 0 (in float32, from a margin of 16.7), this keeps the digits.

    Parameters
    ----------
    input : array of floating-point numbers
        Logits.
    dim : int, optional
        The class axis. None is torch's old guess, without its warning: 0 where `input` has 1 or 3 dimensions, else 1.
    _stacklevel : int
        Without effect.
    dtype : dtype, optional
        To cast `input` to first.

    Returns
    -------
    array
        The shape of `input`.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import torch as F
    >>> [f"{x:.6g}" for x in F.log_softmax(np.asarray([0.0, 50.0]), 0)]
    ['-50', '-1.92875e-22']
    """
    return arrayloss.log_softmax(_cast(input, dtype), axis=_implicit(input, dim))


def logsigmoid(input: A) -> A:
    """`torch.nn.functional.logsigmoid`.

    Parameters
    ----------
    input : array of floating-point numbers
        Logits.

    Returns
    -------
    array
        The shape of `input`.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import torch as F
    >>> F.logsigmoid(np.asarray([0.0, -1000.0])).tolist()
    [-0.6931471805599453, -1000.0]
    """
    return arrayloss.log_sigmoid(input)


def _categorical(
    link: _kernels.RowLink,
    input: Any,
    target: Any,
    weight: Any,
    ignore_index: int,
    reduction: str,
    label_smoothing: float = 0.0,
) -> Problem[Any]:
    xp: Any = _checks.library(input, "input", target=_checks.given("target", target), weight=weight).xp
    soft = xp.isdtype(target.dtype, "real floating")
    if link is _kernels.given_log:
        _problems.check_integers("target", xp, target)
    axis = 0 if input.ndim == 1 else 1
    _problems.check_target("input", input, "target", target, (axis,), labels=not soft)
    _problems.check_weights("input", input, "weight", weight, axis)
    if soft and ignore_index >= 0:
        raise ValueError(f"ignore_index {ignore_index} goes with integer labels; a target of probabilities has none")
    return categorical(
        link,
        core._CROSS_ENTROPY,
        input,
        target,
        name="input",
        label_smoothing=label_smoothing,
        axis=axis,
        class_weight=weight,
        sample_weight=None,
        where=None,
        ignore_index=ignore_index,
        # Labels: the sum of the weights of their classes. Probabilities: the number of samples, whatever the weights.
        reduction=_over_all(reduction) if soft else reduction,
        dtype=None,
    )


@loss
def nll_loss(
    input: A,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Problem[A]:
    """`torch.nn.functional.nll_loss`.

    Parameters
    ----------
    input : array of floating-point numbers, (C,), (N, C) or (N, C, d1, ...)
        Log-probabilities.
    target : array of integers, (), (N,) or (N, d1, ...)
        Labels, of any integer dtype (torch: int64 or uint8).
    weight : array of shape (C,), optional
        A weight for each class.
    size_average, reduce : bool, optional
        What torch had before `reduction`.
    ignore_index : int
        The label of samples that don't count.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the sum of the weights of the labels that count; of none, it is nan.

    Returns
    -------
    array
        0-d, or with `reduction="none"` the shape of `target`.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import torch as F
    >>> log_p = np.log(np.asarray([[0.5, 0.5], [0.25, 0.75]]))
    >>> float(F.nll_loss(log_p, np.asarray([0, 0]), np.asarray([3.0, 1.0])))
    1.0397207708399179
    """
    reduction = _reduction(size_average, reduce, reduction)
    return _categorical(_kernels.given_log, input, target, weight, ignore_index, reduction)


@loss
def cross_entropy(
    input: A,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Problem[A]:
    """`torch.nn.functional.cross_entropy`.

    Parameters
    ----------
    input : array of floating-point numbers, (C,), (N, C) or (N, C, d1, ...)
        Logits.
    target : array of integers, (), (N,) or (N, d1, ...), or of floating-point numbers, of the shape of `input`
        Labels, of any integer dtype (torch: int64 or uint8), or probabilities.
    weight : array of shape (C,), optional
        A weight for each class.
    size_average, reduce : bool, optional
        What torch had before `reduction`.
    ignore_index : int
        The label of samples that don't count. At least 0 with probabilities, it is a ValueError (torch: RuntimeError).
    reduction : {"mean", "sum", "none"}
        "mean" divides by the sum of the weights of the labels that count (of none, it is nan); with probabilities, by
        the number of samples, whatever the weights.
    label_smoothing : float in [0, 1]
        s: the target becomes (1 - s) target + s / C.

    Returns
    -------
    array
        0-d, or with `reduction="none"` the shape of `input` without the class axis.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import torch as F
    >>> x, w = np.asarray([[0.0, 0.0], [0.0, np.log(3.0)]]), np.asarray([3.0, 1.0])
    >>> round(float(F.cross_entropy(x, np.asarray([0, 1]), w)), 6)
    0.591781
    >>> round(float(F.cross_entropy(x, np.eye(2), w)), 6)  # one-hot, and so over N = 2, not over 3 + 1
    1.183562
    """
    reduction = _reduction(size_average, reduce, reduction)
    return _categorical(_kernels.softmax, input, target, weight, ignore_index, reduction, label_smoothing)


def _check_elements(input: Any, target: Any, weight: Any) -> None:
    _checks.library(input, "input", target=_checks.given("target", target), weight=weight)
    _problems.check_target("input", input, "target", target)
    if weight is not None:
        _checks.broadcastable("weight", weight.shape, input.shape)


def _clamped_both(mode: Traced, x: Array, near: float) -> tuple[_kernels.Chance, _kernels.Chance, Any]:
    """`_kernels.given` as torch has it: logarithms of at least -100, and x (1 - x) of at least 1e-12 in a divisor."""
    xp = mode.xp
    hundred = xp.full_like(x, 100.0)
    one, zero, _ = _kernels.given.both(mode, x, near)

    def pull(if_one: Array, if_zero: Array) -> Array:
        p = x * (1 - x)
        return (if_one * (1 - x) - if_zero * x) / xp.maximum(p, xp.full_like(p, _LEAST))

    return (
        _kernels.Chance(xp.minimum(one.surprisal, hundred), one.odds),
        _kernels.Chance(xp.minimum(zero.surprisal, hundred), zero.odds),
        pull,
    )


_clamped = _kernels.BinaryLink(_clamped_both, None, None)


@loss
def binary_cross_entropy(
    input: A,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Problem[A]:
    """`torch.nn.functional.binary_cross_entropy`.

    torch's clamp is reproduced, in the value and in the gradient: a logarithm is at least -100, and the gradient
    divides by at least 1e-12. For the loss without it, which is inf at a wrong 0 or 1, take
    `arrayloss.binary_cross_entropy`; better, pass logits. Probabilities outside [0, 1] give nan (torch: RuntimeError).

    Parameters
    ----------
    input : array of floating-point numbers in [0, 1], any shape
        Probabilities.
    target : array of floating-point numbers in [0, 1], of bool or of integers, of the shape of `input`
        Probabilities of the answer 1.
    weight : array broadcastable to `input`, optional
        A weight for each element.
    size_average, reduce : bool, optional
        What torch had before `reduction`.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the number of elements, whatever the weights.

    Returns
    -------
    array
        0-d, or with `reduction="none"` the shape of `input`.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import torch as F
    >>> F.binary_cross_entropy(np.asarray([0.0, 0.5]), np.asarray([1.0, 1.0]), reduction="none").tolist()
    [100.0, 0.6931471805599453]
    """
    _check_elements(input, target, weight)
    return binary(
        _clamped,
        core._CROSS_ENTROPY,
        input,
        target,
        name="input",
        sample_weight=weight,
        where=None,
        ignore_index=None,
        reduction=_over_all(_reduction(size_average, reduce, reduction)),
        dtype=None,
    )


@loss
def binary_cross_entropy_with_logits(
    input: A,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Any = None,
) -> Problem[A]:
    """`torch.nn.functional.binary_cross_entropy_with_logits`.

    A target outside [0, 1] is a ValueError; torch takes it, for a loss that may be negative.

    Parameters
    ----------
    input : array of floating-point numbers, any shape
        Logits.
    target : array of floating-point numbers in [0, 1], of bool or of integers, of the shape of `input`
        Probabilities of the answer 1.
    weight : array broadcastable to `input`, optional
        A weight for each element.
    size_average, reduce : bool, optional
        What torch had before `reduction`.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the number of elements, whatever the weights.
    pos_weight : array broadcastable to `input`, optional
        A factor of the term of the answer 1.

    Returns
    -------
    array
        0-d, or with `reduction="none"` the shape of `input`.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import torch as F
    >>> x, y, w = np.zeros(2), np.asarray([0.0, 1.0]), np.asarray([1.0, 3.0])
    >>> float(F.binary_cross_entropy_with_logits(x, y, w))  # (log 2 + 3 log 2) / 2
    1.3862943611198906
    """
    _check_elements(input, target, weight)
    return binary(
        _kernels.sigmoid,
        core._CROSS_ENTROPY,
        input,
        target,
        name="input",
        pos_weight=pos_weight,
        sample_weight=weight,
        where=None,
        ignore_index=None,
        reduction=_over_all(_reduction(size_average, reduce, reduction)),
        dtype=None,
    )
