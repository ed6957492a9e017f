"""Classification losses, written once against the Python array API standard, for any array."""

from arrayloss._activations import log_sigmoid, log_softmax, logsumexp, sigmoid, softmax
from arrayloss._gradients import grad, value_and_grad
from arrayloss._losses import (
    asymmetric_loss,
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    kl_divergence,
    nll_loss,
    poly_loss,
    sigmoid_focal_loss,
    softmax_focal_loss,
)
from arrayloss._objective import objective
from arrayloss._reductions import Hardest, Mean, Sum

__version__ = "0.1.0"

__all__ = [
    "Hardest",
    "Mean",
    "Sum",
    "__version__",
    "asymmetric_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "grad",
    "kl_divergence",
    "log_sigmoid",
    "log_softmax",
    "logsumexp",
    "nll_loss",
    "objective",
    "poly_loss",
    "sigmoid",
    "sigmoid_focal_loss",
    "softmax",
    "softmax_focal_loss",
    "value_and_grad",
]
