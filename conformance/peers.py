"""What else there is: the libraries' own losses, and formulas people copy, judged by the same cases."""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from arrayloss.testing import HALF, Case, Implementation, Loss

from . import runner
from .report import short
from .runner import Result

OURS = "arrayloss"
FAMILIES = ("margins", "ties", "classes", "dominating", "offset", "probabilities")


def cases(selection: runner.Selection) -> Iterator[Case]:
    """The stress families, where a peer's formula shows; no peer has all options of the others."""
    for case in runner.selected_cases(selection):
        if case.family in (selection.families or FAMILIES):
            yield case


def peers() -> list[Implementation]:
    """Every peer that is installed."""
    found = []
    for make, needed in (
        (_torch, "torch"),
        (_tutorial, "torch"),
        (_torchvision, "torch"),
        (_asl, "torch"),
        (_jax, "jax"),
        (_optax, "optax"),
        (_scipy, "scipy"),
        (_sklearn, "sklearn"),
        (_keras, "keras"),
    ):
        if importlib.util.find_spec(needed) is not None:
            found.append(make())
    return found


def _covering(options: Mapping[str, tuple[str, ...]], no_half: bool = False) -> Any:
    """A judge of what a peer takes: for each function, the options and arrays besides logits, target and reduction."""

    def not_covered(case: Case) -> str | None:
        extras = [n for n in (*case.arrays, *case.options) if n not in ("logits", "target", "reduction")]
        unknown = [n for n in extras if n not in options.get(case.function, ())]
        if unknown:
            return f"takes no {', '.join(unknown)}"
        if case.reduction not in ("none", "mean", "sum"):
            return "takes no such reduction"
        if no_half and case.dtype in HALF:
            return "takes no half types"
        return None

    return not_covered


def _unreduced(loss: Loss) -> Loss:
    """A loss of each sample with a reduction on top."""

    def call(logits: Any, target: Any, *, reduction: str = "mean", **options: Any) -> Any:
        found = loss(logits, target, **options)
        return {"none": lambda v: v, "mean": lambda v: v.mean(), "sum": lambda v: v.sum()}[reduction](found)

    return call


def _torch() -> Implementation:
    functional: Any = importlib.import_module("torch.nn.functional")
    torch: Any = importlib.import_module("torch")

    def bce(loss: Loss) -> Loss:
        def call(
            logits: Any, target: Any, *, reduction: str = "mean", sample_weight: Any = None, **options: Any
        ) -> Any:
            return loss(logits, target.to(logits.dtype), weight=sample_weight, reduction=reduction, **options)

        return call

    def categorical(loss: Loss) -> Loss:
        def call(logits: Any, target: Any, *, class_weight: Any = None, **options: Any) -> Any:
            return loss(logits, target, weight=class_weight, **options)

        return call

    def divergence(logits: Any, target: Any) -> Any:
        log_p, log_q = (functional.log_softmax(a, dim=-1) for a in (logits, target))
        return functional.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)

    functions: dict[str, Loss] = {
        "softmax": lambda x: functional.softmax(x, dim=-1),
        "log_softmax": lambda x: functional.log_softmax(x, dim=-1),
        "logsumexp": lambda x: torch.logsumexp(x, dim=-1),
        "sigmoid": torch.sigmoid,
        "log_sigmoid": functional.logsigmoid,
        "nll_loss": categorical(functional.nll_loss),
        "cross_entropy": categorical(functional.cross_entropy),
        "binary_cross_entropy": bce(functional.binary_cross_entropy),
        "binary_cross_entropy_with_logits": bce(functional.binary_cross_entropy_with_logits),
        "kl_divergence_with_logits": _unreduced(divergence),
    }
    takes = _covering({})

    def not_covered(case: Case) -> str | None:
        if case.function == "nll_loss" and case.target_kind != "index":
            return "takes no soft targets"
        found: str | None = takes(case)
        return found

    return Implementation("torch", functions, backends=("torch:cpu", "torch:cuda"), not_covered=not_covered)


def _tutorial() -> Implementation:
    """The tutorial's last focal loss, elementwise: hard targets only."""
    torch: Any = importlib.import_module("torch")
    functional: Any = importlib.import_module("torch.nn.functional")

    def focal(logits: Any, target: Any, *, gamma: float, reduction: str) -> Any:
        target = target.to(logits.dtype)
        peak = (-logits).clamp(min=0)
        loss = logits - logits * target + peak + ((-peak).exp() + (-logits - peak).exp()).log()
        return (functional.logsigmoid(-logits * (target * 2.0 - 1.0)) * gamma).exp() * loss

    def naive(logits: Any, target: Any, *, reduction: str) -> Any:
        powers = logits.exp()
        return -(powers / powers.sum(-1, keepdim=True)).gather(-1, target[:, None])[:, 0].log()

    functions: dict[str, Loss] = {"sigmoid_focal_loss": focal, "cross_entropy": naive}
    functions["softmax"] = lambda x: x.exp() / x.exp().sum(-1).unsqueeze(1)
    functions["sigmoid"] = lambda x: torch.reciprocal(1 + (-x).exp())
    takes = _covering({"sigmoid_focal_loss": ("gamma",)})
    return Implementation("tutorial", functions, backends=("torch:cpu",), not_covered=takes)


def _torchvision() -> Implementation:
    """torchvision.ops.sigmoid_focal_loss, its formula written out (the package isn't needed for it)."""
    functional: Any = importlib.import_module("torch.nn.functional")

    def focal(inputs: Any, targets: Any, *, gamma: float, reduction: str) -> Any:
        targets = targets.to(inputs.dtype)
        p = inputs.sigmoid()
        ce_loss = functional.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
        p_t = p * targets + (1 - p) * (1 - targets)
        return ce_loss * ((1 - p_t) ** gamma)

    takes = _covering({"sigmoid_focal_loss": ("gamma",)})
    return Implementation("torchvision", {"sigmoid_focal_loss": focal}, backends=("torch:cpu",), not_covered=takes)


def _asl() -> Implementation:
    """The asymmetric loss of its authors, github.com/Alibaba-MIIL/ASL, with their `eps` and gradients by the powers."""
    torch: Any = importlib.import_module("torch")

    def asymmetric(
        x: Any, y: Any, *, gamma_positive: float = 1, gamma_negative: float = 4, margin: float = 0.05
    ) -> Any:
        y = y.to(x.dtype)
        p = torch.sigmoid(x)
        not_p = (1 - p + margin).clamp(max=1)
        loss = y * torch.log(p.clamp(min=1e-8)) + (1 - y) * torch.log(not_p.clamp(min=1e-8))
        p_t = p * y + not_p * (1 - y)
        return -loss * torch.pow(1 - p_t, gamma_positive * y + gamma_negative * (1 - y))

    takes = _covering({"asymmetric_loss": ("gamma_positive", "gamma_negative", "margin")})
    return Implementation(
        "ASL", {"asymmetric_loss": _unreduced(asymmetric)}, backends=("torch:cpu",), not_covered=takes
    )


def _jax() -> Implementation:
    nn: Any = importlib.import_module("jax.nn")
    functions: dict[str, Loss] = {
        "softmax": nn.softmax,
        "log_softmax": nn.log_softmax,
        "logsumexp": lambda x: nn.logsumexp(x, axis=-1),
        "sigmoid": nn.sigmoid,
        "log_sigmoid": nn.log_sigmoid,
    }
    return Implementation("jax", functions, backends=("jax:cpu", "jax:cuda"), not_covered=_covering({}))


def _optax() -> Implementation:
    optax: Any = importlib.import_module("optax")
    jax: Any = importlib.import_module("jax")

    def categorical(logits: Any, target: Any) -> Any:
        if target.ndim == logits.ndim:
            return optax.softmax_cross_entropy(logits, target)
        return optax.softmax_cross_entropy_with_integer_labels(logits, target)

    def poly(logits: Any, target: Any, *, epsilon: float = 2.0) -> Any:
        if target.ndim != logits.ndim:
            target = jax.nn.one_hot(target, logits.shape[-1], dtype=logits.dtype)
        return optax.losses.poly_loss_cross_entropy(logits, target, epsilon=epsilon)

    def divergence(logits: Any, target: Any) -> Any:
        return optax.losses.kl_divergence(jax.nn.log_softmax(logits), jax.nn.softmax(target))

    functions = {
        "poly_loss": _unreduced(poly),
        "kl_divergence_with_logits": _unreduced(divergence),
        "cross_entropy": _unreduced(categorical),
        "binary_cross_entropy_with_logits": _unreduced(optax.sigmoid_binary_cross_entropy),
        "sigmoid_focal_loss": _unreduced(optax.sigmoid_focal_loss),
    }
    takes = _covering({"sigmoid_focal_loss": ("gamma",), "poly_loss": ("epsilon",)})
    return Implementation("optax", functions, backends=("jax:cpu", "jax:cuda"), not_covered=takes)


def _scipy() -> Implementation:
    special: Any = importlib.import_module("scipy.special")

    def divergence(logits: Any, target: Any) -> Any:
        return special.kl_div(special.softmax(target, axis=-1), special.softmax(logits, axis=-1)).sum(-1)

    functions: dict[str, Loss] = {
        "softmax": lambda x: special.softmax(x, axis=-1),
        "log_softmax": lambda x: special.log_softmax(x, axis=-1),
        "logsumexp": lambda x: special.logsumexp(x, axis=-1),
        "sigmoid": special.expit,
        "log_sigmoid": special.log_expit,
        "kl_divergence_with_logits": _unreduced(divergence),
    }
    return Implementation("scipy", functions, backends=("numpy",), not_covered=_covering({}))


def _sklearn() -> Implementation:
    """The losses inside scikit-learn's gradient boosting and linear models, which have closed gradients."""
    module: Any = importlib.import_module("sklearn._loss.loss")

    def halfway(loss: Any) -> Loss:
        def call(logits: Any, target: Any, *, reduction: str) -> Any:
            return loss.loss(target.astype(logits.dtype), logits)

        return call

    def both(function: Loss) -> Loss:
        def call(logits: Any, target: Any, *, reduction: str, cotangent: Any) -> Any:
            loss = module.HalfBinomialLoss() if logits.ndim == 1 else module.HalfMultinomialLoss(logits.shape[-1])
            if logits.ndim == 1:
                return loss.loss_gradient(target.astype(logits.dtype), logits)
            return loss.loss_gradient(target.astype(logits.dtype), logits)

        return call

    def categorical(logits: Any, target: Any, *, reduction: str) -> Any:
        return module.HalfMultinomialLoss(logits.shape[-1]).loss(target.astype(logits.dtype), logits)

    functions: dict[str, Loss] = {
        "binary_cross_entropy_with_logits": halfway(module.HalfBinomialLoss()),
        "cross_entropy": categorical,
    }

    def not_covered(case: Case) -> str | None:
        if case.function == "cross_entropy" and case.arrays["logits"].shape[-1] < 3:
            return "takes three classes or more"
        found: str | None = _covering({}, no_half=True)(case)
        return found

    return Implementation("scikit-learn", functions, both, backends=("numpy",), not_covered=not_covered)


def _keras() -> Implementation:
    """Keras' losses of logits, on whichever backend it has been set to; run here on JAX arrays or torch tensors."""
    os.environ.setdefault("KERAS_BACKEND", "jax")  # keras would look for TensorFlow
    keras: Any = importlib.import_module("keras")
    backend = {"jax": ("jax:cpu", "jax:cuda"), "torch": ("torch:cpu", "torch:cuda")}.get(keras.backend.backend(), ())

    def categorical(logits: Any, target: Any, *, reduction: str) -> Any:
        return keras.ops.sparse_categorical_crossentropy(target, logits, from_logits=True)

    def binary(logits: Any, target: Any, *, reduction: str) -> Any:
        return keras.ops.binary_crossentropy(target, logits, from_logits=True)

    def focal(logits: Any, target: Any, *, gamma: float, reduction: str) -> Any:
        return keras.losses.binary_focal_crossentropy(target[:, None], logits[:, None], gamma=gamma, from_logits=True)

    def categorical_focal(logits: Any, target: Any, *, gamma: float, reduction: str) -> Any:
        shares = keras.ops.one_hot(target, logits.shape[-1])
        return keras.losses.categorical_focal_crossentropy(shares, logits, alpha=1.0, gamma=gamma, from_logits=True)

    functions: dict[str, Loss] = {
        "cross_entropy": categorical,
        "binary_cross_entropy_with_logits": binary,
        "sigmoid_focal_loss": focal,
        "softmax_focal_loss": categorical_focal,
    }
    takes = _covering({"sigmoid_focal_loss": ("gamma",), "softmax_focal_loss": ("gamma",)})
    return Implementation("keras", functions, backends=backend, not_covered=takes)


# ---------------------------------------------------------------- where a peer is better

WHY: dict[tuple[str, str], str] = {
    ("scikit-learn", "binary_cross_entropy_with_logits"): "computes in double",
    ("scipy", "log_sigmoid"): "the C library's exp, half a ULP; NumPy's vectorised one is off by up to 2.4",
}
"""Why a peer's function is the more accurate one, where that is known."""

NOTES = {
    "keras": "the focal losses turn logits into probabilities and clip these to [1e-7, 1 - 1e-7], so the loss of a "
    "confident right answer stays at 1e-7 or so however small it is; in ULP of a subnormal number that is 1e37",
}
"""What a peer's row must be read with."""


def better(results: list[Result], dtype: str = "float32") -> str:
    """The cells where a peer's worst error is smaller than ours, on the cases that it takes, as a Markdown list."""
    worst: dict[tuple[str, str, str, str, str, str], float] = {}
    for r in results:
        if r.dtype == dtype and r.mode and r.status != "not run":
            found = r.measured
            sound = found is not None and not found.spurious and not found.missing
            kind = "value" if r.quantity.endswith("value") else "gradient"
            key = r.function, kind, r.case, r.implementation, r.backend, r.mode
            worst[key] = max(worst.get(key, 0), found.worst if found and sound else math.inf)
    theirs: dict[tuple[str, str, str, str, str], list[str]] = {}
    for function, kind, case, name, backend, mode in worst:
        if name != OURS:
            theirs.setdefault((function, kind, name, backend, mode), []).append(case)
    lines = []
    for (function, kind, name, backend, mode), shared in theirs.items():
        peer = max(worst[function, kind, case, name, backend, mode] for case in shared)
        same = max(worst.get((function, kind, case, OURS, backend, mode), math.inf) for case in shared)
        plain = max(worst.get((function, kind, case, OURS, "numpy", "eager"), math.inf) for case in shared)
        if peer < same:
            why = WHY.get((name, function), "")
            lines.append(
                f"- {function}, {kind}: {name} on {backend}{'' if mode == 'eager' else f' {mode}'} {short(peer)} ULP; "
                f"ours there {short(same)} (on NumPy {short(plain)}){f': {why}' if why else ''}"
            )
    notes = [f"- {name}: {note}." for name, note in NOTES.items() if any(key[3] == name for key in worst)]
    return "\n".join([*(lines or ["Nowhere."]), *(["", "To be read with:", *notes] if notes else [])])
