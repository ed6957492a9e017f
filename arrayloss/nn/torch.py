"""The losses as modules of PyTorch.

The class axis is 1 (0 for a single sample). Options that are tensors become buffers: they are part of the state_dict,
and move with the module. Where `torch.nn` has a module of the same name, this one is a subclass, with the same
arguments, buffers and state_dict, and computes the loss by `arrayloss.compat.torch`; but `reduction` may also be one of
`arrayloss`, such as `Hardest(fraction=0.5)`. Under `torch.autocast` the loss is float32, as in torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor

import arrayloss
from arrayloss import Hardest, Mean, Sum
from arrayloss.compat import torch as F
from arrayloss.extending import AnswerOptions, ClassOptions, Scalar, documented, problem

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "NLLLoss",
    "SigmoidFocalLoss",
    "SoftmaxFocalLoss",
]

_MODULE = """
weight : tensor, optional
    The weight of each class, in the shape (classes,). In a binary loss: the weight of each element, in a shape that
    broadcasts to the input. It becomes a buffer.
size_average : bool, optional
    Deprecated in torch. Use `reduction`.
reduce : bool, optional
    Deprecated in torch. Use `reduction`.
"""
Reduction: TypeAlias = Literal["mean", "sum", "none"] | Mean | Sum | Hardest


def _options(module: torch.nn.Module, *names: str) -> str:
    """`name=value` of each option that is not None, for the repr of the module. For a tensor, its shape."""
    values = ((name, getattr(module, name)) for name in names)
    return ", ".join(f"{k}={tuple(v.shape) if isinstance(v, Tensor) else repr(v)}" for k, v in values if v is not None)


def _keep(module: torch.nn.Module, name: str, value: object) -> None:
    """Keep an option as an attribute; a tensor that is no parameter becomes a buffer."""
    if isinstance(value, Tensor) and not isinstance(value, torch.nn.Parameter):
        module.register_buffer(name, value)
    else:
        setattr(module, name, value)


def _promoted(input: Tensor) -> Tensor:
    """Cast to float32 as autocast does for torch's losses: float16 is too narrow for the scale of a GradScaler.

    https://docs.pytorch.org/docs/stable/amp.html#cuda-ops-that-can-autocast-to-float32
    """
    return input.float() if input.dtype.itemsize == 2 and torch.is_autocast_enabled(input.device.type) else input


@documented(ClassOptions, _MODULE)
class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss`, accurate also where the loss is close to 0.

    Computed by `arrayloss.compat.torch.cross_entropy`.

    Examples
    --------
    >>> import torch
    >>> from arrayloss.nn.torch import CrossEntropyLoss
    >>> CrossEntropyLoss()(torch.tensor([[0.0, 20.0]]), torch.tensor([1]))  # torch.nn's: 0
    tensor(2.0612e-09)
    """

    if TYPE_CHECKING:  # torch's own, with more reductions

        def __init__(
            self,
            weight: Tensor | None = None,
            size_average: bool | None = None,
            ignore_index: int = -100,
            reduce: bool | None = None,
            reduction: Reduction = "mean",
            label_smoothing: float = 0.0,
        ) -> None: ...

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
        return _options(self, "weight", "ignore_index", "reduction", "label_smoothing")


@documented(ClassOptions, _MODULE)
class NLLLoss(torch.nn.NLLLoss):
    """`torch.nn.NLLLoss`.

    Computed by `arrayloss.compat.torch.nll_loss`.

    Examples
    --------
    >>> import torch
    >>> from arrayloss.nn.torch import NLLLoss
    >>> NLLLoss()(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([1]))
    tensor(0.6931)
    """

    if TYPE_CHECKING:  # torch's own, with more reductions

        def __init__(
            self,
            weight: Tensor | None = None,
            size_average: bool | None = None,
            ignore_index: int = -100,
            reduce: bool | None = None,
            reduction: Reduction = "mean",
        ) -> None: ...

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.nll_loss(
            _promoted(input), target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction
        )

    def extra_repr(self) -> str:
        return _options(self, "weight", "ignore_index", "reduction")


@documented(AnswerOptions, _MODULE)
class BCELoss(torch.nn.BCELoss):
    """`torch.nn.BCELoss`. As in torch, no logarithm is below -100.

    Computed by `arrayloss.compat.torch.binary_cross_entropy`.

    Examples
    --------
    >>> import torch
    >>> from arrayloss.nn.torch import BCELoss
    >>> BCELoss()(torch.tensor([0.5]), torch.tensor([1.0]))
    tensor(0.6931)
    """

    if TYPE_CHECKING:  # torch's own, with more reductions

        def __init__(
            self,
            weight: Tensor | None = None,
            size_average: bool | None = None,
            reduce: bool | None = None,
            reduction: Reduction = "mean",
        ) -> None: ...

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy(_promoted(input), target, self.weight, reduction=self.reduction)

    def extra_repr(self) -> str:
        return _options(self, "weight", "reduction")


@documented(AnswerOptions, _MODULE)
class BCEWithLogitsLoss(torch.nn.BCEWithLogitsLoss):
    """`torch.nn.BCEWithLogitsLoss`.

    Computed by `arrayloss.compat.torch.binary_cross_entropy_with_logits`.

    Examples
    --------
    >>> import torch
    >>> from arrayloss.nn.torch import BCEWithLogitsLoss
    >>> BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))(torch.zeros(2), torch.ones(2))
    tensor(2.0794)
    """

    if TYPE_CHECKING:  # torch's own, with more reductions

        def __init__(
            self,
            weight: Tensor | None = None,
            size_average: bool | None = None,
            reduce: bool | None = None,
            reduction: Reduction = "mean",
            pos_weight: Tensor | None = None,
        ) -> None: ...

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            _promoted(input), target, self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )

    def extra_repr(self) -> str:
        return _options(self, "weight", "pos_weight", "reduction")


@documented(ClassOptions, _MODULE)
class SoftmaxFocalLoss(torch.nn.Module):
    """The focal loss of a softmax: `arrayloss.softmax_focal_loss`.

    Examples
    --------
    >>> import torch
    >>> from arrayloss.nn.torch import SoftmaxFocalLoss
    >>> SoftmaxFocalLoss(gamma=2.0)(torch.zeros(3, 2), torch.tensor([0, 1, 1]))
    tensor(0.1733)
    """

    gamma: Scalar
    alpha: Tensor | float | None
    weight: Tensor | None

    def __init__(
        self,
        gamma: Scalar = 2.0,
        alpha: Tensor | float | None = None,
        *,
        weight: Tensor | None = None,
        ignore_index: int | tuple[int, ...] = -100,
        reduction: Reduction = "mean",
        label_smoothing: Scalar = 0.0,
    ) -> None:
        super().__init__()
        # A wrong option is an error here, not at the first step of training.
        logits, labels = torch.zeros(1, 1, device="cpu"), torch.zeros(1, dtype=torch.int64, device="cpu")
        problem(
            arrayloss.softmax_focal_loss,
            logits,
            labels,
            gamma=0.0 if isinstance(gamma, Tensor) else gamma,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            reduction=reduction,
        )
        _keep(self, "gamma", gamma)
        _keep(self, "alpha", alpha)
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
        return _options(self, "gamma", "alpha", "weight", "ignore_index", "reduction", "label_smoothing")


@documented(AnswerOptions, _MODULE)
class SigmoidFocalLoss(torch.nn.Module):
    """The focal loss of a sigmoid: `arrayloss.sigmoid_focal_loss`.

    Examples
    --------
    >>> import torch
    >>> from arrayloss.nn.torch import SigmoidFocalLoss
    >>> SigmoidFocalLoss(gamma=2.0, alpha=0.25)(torch.zeros(3), torch.ones(3))
    tensor(0.0433)
    """

    gamma: Scalar
    alpha: Scalar | None
    pos_weight: Tensor | None

    def __init__(
        self,
        gamma: Scalar = 2.0,
        alpha: Scalar | None = None,
        *,
        pos_weight: Tensor | None = None,
        reduction: Reduction = "mean",
        label_smoothing: Scalar = 0.0,
    ) -> None:
        super().__init__()
        logits = torch.zeros(1, device="cpu")
        problem(
            arrayloss.sigmoid_focal_loss,
            logits,
            logits,
            gamma=0.0 if isinstance(gamma, Tensor) else gamma,
            label_smoothing=label_smoothing,
            reduction=reduction,
        )
        _keep(self, "gamma", gamma)
        _keep(self, "alpha", alpha)
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
        return _options(self, "gamma", "alpha", "pos_weight", "reduction", "label_smoothing")
