"""The losses as modules of PyTorch.

Those that `torch.nn` has too are subclasses of its own: the same arguments in the same order, the same buffers and
state_dict, and the class axis 1. Only the computation is `arrayloss.compat.torch`'s. Beside "none", "mean" and "sum",
`reduction` may be one of `arrayloss`'s, such as `Hardest(fraction=0.5)`. Under `torch.autocast` the loss is float32, as
torch's own is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import arrayloss
from arrayloss import _checks
from arrayloss.compat import torch as F

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "NLLLoss",
    "SigmoidFocalLoss",
    "SoftmaxFocalLoss",
]


def _told(module: torch.nn.Module, *names: str) -> str:
    """`name=value` of each; of a tensor, its shape."""
    values = ((name, getattr(module, name)) for name in names)
    return ", ".join(f"{k}={tuple(v.shape) if isinstance(v, Tensor) else repr(v)}" for k, v in values if v is not None)


def _promoted(input: Tensor) -> Tensor:
    """In float32 where autocast would have it so: a loss in float16 does not survive the scale of a GradScaler.

    https://docs.pytorch.org/docs/stable/amp.html#cuda-ops-that-can-autocast-to-float32
    """
    return input.float() if input.dtype.itemsize == 2 and torch.is_autocast_enabled(input.device.type) else input


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss`, with every digit.

    Takes its arguments, and calls `arrayloss.compat.torch.cross_entropy`.

    Examples
    --------
    >>> import torch
    >>> from arrayloss.nn.torch import CrossEntropyLoss
    >>> CrossEntropyLoss()(torch.tensor([[0.0, 20.0]]), torch.tensor([1]))  # torch.nn's: 0
    tensor(2.0612e-09)
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            _promoted(input),
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )

    def extra_repr(self) -> str:
        return _told(self, "weight", "ignore_index", "reduction", "label_smoothing")


class NLLLoss(torch.nn.NLLLoss):
    """`torch.nn.NLLLoss`.

    Takes its arguments, and calls `arrayloss.compat.torch.nll_loss`.

    Examples
    --------
    >>> import torch
    >>> from arrayloss.nn.torch import NLLLoss
    >>> NLLLoss()(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([1]))
    tensor(0.6931)
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.nll_loss(
            _promoted(input), target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction
        )

    def extra_repr(self) -> str:
        return _told(self, "weight", "ignore_index", "reduction")


class BCELoss(torch.nn.BCELoss):
    """`torch.nn.BCELoss`, its clamp at -100 included.

    Takes its arguments, and calls `arrayloss.compat.torch.binary_cross_entropy`.

    Examples
    --------
    >>> import torch
    >>> from arrayloss.nn.torch import BCELoss
    >>> BCELoss()(torch.tensor([0.5]), torch.tensor([1.0]))
    tensor(0.6931)
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy(_promoted(input), target, self.weight, reduction=self.reduction)

    def extra_repr(self) -> str:
        return _told(self, "weight", "reduction")


class BCEWithLogitsLoss(torch.nn.BCEWithLogitsLoss):
    """`torch.nn.BCEWithLogitsLoss`.

    Takes its arguments, and calls `arrayloss.compat.torch.binary_cross_entropy_with_logits`.

    Examples
    --------
    >>> import torch
    >>> from arrayloss.nn.torch import BCEWithLogitsLoss
    >>> BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))(torch.zeros(2), torch.ones(2))
    tensor(2.0794)
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            _promoted(input), target, self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )

    def extra_repr(self) -> str:
        return _told(self, "weight", "pos_weight", "reduction")


class SoftmaxFocalLoss(torch.nn.Module):
    """`arrayloss.softmax_focal_loss`, with the class axis 1 (0 for a single sample).

    Parameters
    ----------
    gamma : float >= 0
        How much less an easy sample counts; 0 is the cross-entropy.
    alpha : tensor of shape (C,), in [0, 1], optional
        The share of each class; a buffer.
    weight : tensor of shape (C,), optional
        A weight for each class, which a mean divides by; a buffer.
    ignore_index : int
        The label of samples that don't count.
    reduction : {"mean", "sum", "none"}, Mean, Sum or Hardest
        From the loss of each sample to the result.
    label_smoothing : float in [0, 1]
        s: the target becomes (1 - s) target + s / C.

    Examples
    --------
    >>> import torch
    >>> from arrayloss.nn.torch import SoftmaxFocalLoss
    >>> SoftmaxFocalLoss(gamma=2.0)(torch.zeros(3, 2), torch.tensor([0, 1, 1]))
    tensor(0.1733)
    """

    alpha: Tensor | None
    weight: Tensor | None

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: Tensor | None = None,
        *,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Any = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.gamma = _checks.focusing(gamma)
        self.register_buffer("alpha", alpha)
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.label_smoothing = label_smoothing

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return arrayloss.softmax_focal_loss(
            _promoted(input),
            target,
            gamma=self.gamma,
            alpha=self.alpha,
            label_smoothing=self.label_smoothing,
            axis=0 if input.ndim == 1 else 1,
            class_weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        return _told(self, "gamma", "alpha", "weight", "ignore_index", "reduction", "label_smoothing")


class SigmoidFocalLoss(torch.nn.Module):
    """`arrayloss.sigmoid_focal_loss`.

    Parameters
    ----------
    gamma : float >= 0
        How much less an easy element counts; 0 is the cross-entropy.
    alpha : float or 0-d tensor, in [0, 1], optional
        The share of the answer 1; that of 0 is 1 - alpha. Without it both count in full. A tensor is a buffer.
    pos_weight : tensor broadcastable to the input, optional
        A further factor of the term of the answer 1; a buffer.
    reduction : {"mean", "sum", "none"}, Mean, Sum or Hardest
        From the loss of each element to the result.
    label_smoothing : float in [0, 1]
        s: the target becomes (1 - s) y + s / 2.

    Examples
    --------
    >>> import torch
    >>> from arrayloss.nn.torch import SigmoidFocalLoss
    >>> SigmoidFocalLoss(gamma=2.0, alpha=0.25)(torch.zeros(3), torch.ones(3))
    tensor(0.0433)
    """

    pos_weight: Tensor | None

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: Tensor | float | None = None,
        *,
        pos_weight: Tensor | None = None,
        reduction: Any = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.gamma = _checks.focusing(gamma)
        if isinstance(alpha, Tensor):
            self.register_buffer("alpha", alpha)
        else:
            self.alpha = alpha
        self.register_buffer("pos_weight", pos_weight)
        self.reduction = reduction
        self.label_smoothing = label_smoothing

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return arrayloss.sigmoid_focal_loss(
            _promoted(input),
            target,
            gamma=self.gamma,
            alpha=self.alpha,
            pos_weight=self.pos_weight,
            label_smoothing=self.label_smoothing,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        return _told(self, "gamma", "alpha", "pos_weight", "reduction", "label_smoothing")
