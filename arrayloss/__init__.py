"""Classification losses, written once against the Python array API standard, for any array."""

import importlib

from arrayloss.functions import balanced_class_weight, log_sigmoid, log_softmax, logsumexp, sigmoid, softmax
from arrayloss.gradients import grad, objective, value_and_grad
from arrayloss.losses import (
    asymmetric_loss,
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    generalized_cross_entropy,
    js_divergence,
    js_divergence_with_logits,
    kl_divergence,
    kl_divergence_with_logits,
    linear_cross_entropy,
    nll_loss,
    poly_loss,
    sigmoid_focal_loss,
    softmax_focal_loss,
    symmetric_cross_entropy,
)
from arrayloss.reductions import Hardest, Mean, Sum

_SUBMODULES = ("compat", "extending", "nn", "testing")


def __getattr__(name: str) -> object:
    if name in _SUBMODULES:
        return importlib.import_module(f"arrayloss.{name}")
    raise AttributeError(f"module 'arrayloss' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_SUBMODULES]


__version__ = "0.1.0"

__all__ = [
    "Hardest",
    "Mean",
    "Sum",
    "__version__",
    "asymmetric_loss",
    "balanced_class_weight",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "generalized_cross_entropy",
    "grad",
    "js_divergence",
    "js_divergence_with_logits",
    "kl_divergence",
    "kl_divergence_with_logits",
    "linear_cross_entropy",
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
    "symmetric_cross_entropy",
    "value_and_grad",
]
