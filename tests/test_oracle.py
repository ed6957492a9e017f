"""The oracle against mpmath at 60 digits and more, written from the definitions, in the plainest way there is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mpmath
import numpy as np
import pytest

from arrayloss.testing import Case, Floats, Reduce, spacing
from conformance.cases import BINARY, CATEGORICAL, DIVERGENCES, FUNCTIONS, GIVEN
from conformance.oracle import exact

# Where e**-300 and 1 stand in one sum, 60 digits of a small loss and of a difference quotient of it take 700.
FAR, NEAR = 700, 200


def _cost(p: Any, gamma: Any) -> Any:
    return mpmath.inf if p == 0 else (1 - p) ** gamma * -mpmath.log(p)


def _of_class(case: Case, p: Any, gamma: Any, epsilon: float) -> Any:
    given = {name: mpmath.mpf(v) for name, v in case.options.items() if name in ("q", "alpha", "beta", "log_zero")}
    if case.function == "generalized_cross_entropy":
        return (1 - p ** given["q"]) / given["q"]
    if case.function == "symmetric_cross_entropy":
        return given["alpha"] * _cost(p, gamma) - given["beta"] * given["log_zero"] * (1 - p)
    return _cost(p, gamma) + mpmath.mpf(epsilon) * (1 - p)


def _answers(case: Case, p: Any, gamma: Any) -> tuple[Any, Any]:
    """The costs of the answers 1 and 0."""
    if case.function != "asymmetric_loss":
        return _cost(p, gamma), _cost(1 - p, gamma)
    one, zero, margin = (mpmath.mpf(case.options[n]) for n in ("gamma_positive", "gamma_negative", "margin"))
    shifted = max(p - margin, mpmath.mpf(0))
    return _cost(p, one), _cost(1 - shifted, zero)


def _divergence(function: str, x: list[Any], t: list[Any]) -> Any:
    p, q = ([mpmath.exp(v) / sum(mpmath.exp(u) for u in row) for v in row] for row in (x, t))
    if function in GIVEN:
        p, q = [mpmath.exp(v) for v in x], t
    pairs = list(zip(p, q, strict=True))
    if function.startswith("kl"):
        return sum(b * mpmath.log(b / a) for a, b in pairs)
    return sum(a * mpmath.log(2 * a / (a + b)) + b * mpmath.log(2 * b / (a + b)) for a, b in pairs) / 2


def _value(case: Case, arrays: dict[str, list[Any]]) -> Any:
    """The loss of flat lists of mpmath numbers, reduced: a 2-d problem, axis last."""
    shape = case.arrays["logits"].shape
    divisor = mpmath.mpf(case.options.get("temperature", 1.0))
    x, taught = ([v / divisor for v in arrays[name]] for name in ("logits", "target"))
    count = shape[0]
    gamma = mpmath.mpf(case.options.get("gamma", 2.0)) if "focal" in case.function else mpmath.mpf(0)
    s = mpmath.mpf(case.options.get("label_smoothing", 0.0))
    epsilon = case.options.get("epsilon", 2.0) if case.function == "poly_loss" else 0.0
    sample_weight = arrays.get("sample_weight", [mpmath.mpf(1)] * count)
    losses, weights = [], []
    for i in range(count):
        if case.function in BINARY:
            y = (1 - s) * arrays["target"][i] + s / 2
            p = x[i] if case.function == "binary_cross_entropy" else 1 / (1 + mpmath.exp(-x[i]))
            one, zero = arrays.get("pos_weight", [mpmath.mpf(1)] * count)[i], mpmath.mpf(1)
            alpha = arrays["alpha"][i] if "alpha" in arrays else case.options.get("alpha")
            if alpha is not None:
                one, zero = one * mpmath.mpf(alpha), 1 - mpmath.mpf(alpha)
            costs = _answers(case, p, arrays["gamma"][i] if "gamma" in arrays else gamma)
            loss = sum(w * cost for w, cost in zip((y * one, (1 - y) * zero), costs, strict=True) if w != 0)
            weight = sample_weight[i]
        elif case.function in DIVERGENCES:
            row = slice(i * shape[1], (i + 1) * shape[1])
            loss, weight = _divergence(case.function, x[row], taught[row]), sample_weight[i]
        else:
            classes = shape[1]
            row = x[i * classes : (i + 1) * classes]
            if case.function == "nll_loss":
                p_row = [mpmath.exp(v) for v in row]
            else:
                total = sum(mpmath.exp(v) for v in row)
                p_row = [mpmath.exp(v) / total for v in row]
            if case.target_kind == "index":
                q = [mpmath.mpf(int(arrays["target"][i]) == c) for c in range(classes)]
            else:
                q = arrays["target"][i * classes : (i + 1) * classes]
            class_weight = arrays.get("class_weight", [mpmath.mpf(1)] * classes)
            alpha = arrays.get("alpha", [mpmath.mpf(1)] * classes)
            loss, weight = mpmath.mpf(0), mpmath.mpf(0)
            for c in range(classes):
                share = ((1 - s) * q[c] + s / classes) * class_weight[c] * alpha[c]
                power = arrays["gamma"][c] if "gamma" in arrays else gamma
                weight += sample_weight[i] * q[c] * class_weight[c]
                if share != 0:
                    loss += share * _of_class(case, p_row[c], power, epsilon)
        losses.append(sample_weight[i] * loss)
        weights.append(weight)
    how = case.reduction
    if how == "none":
        assert case.cotangent is not None
        return sum(mpmath.mpf(float(g)) * loss for g, loss in zip(case.cotangent, losses, strict=True))
    if isinstance(how, Reduce) and how.kind == "Hardest":
        chosen = sorted(losses, reverse=True)[: how.arguments["k"]]
        return sum(chosen) / len(chosen)
    if how == "sum":
        return sum(losses)
    return sum(losses) / (sum(weights) if how == "mean" else mpmath.mpf(count))


def _lists(case: Case) -> dict[str, list[Any]]:
    return {name: [mpmath.mpf(float(v)) for v in values.ravel()] for name, values in case.arrays.items()}


def _slope(case: Case, name: str, at: int) -> Any:
    """A central difference: its error goes with the square of a step of a third of the digits."""
    step = mpmath.mpf(10) ** (-mpmath.mp.dps // 3)
    ends = []
    for sign in (1, -1):
        arrays = _lists(case)
        arrays[name][at] += sign * step
        ends.append(_value(case, arrays))
    return (ends[0] - ends[1]) / (2 * step)


def _same(high: float, low: float, scale: float, expected: Any) -> bool:
    unit = float(spacing(np.asarray(scale), "float64"))
    return bool(abs(mpmath.mpf(high) + mpmath.mpf(low) - expected) <= mpmath.mpf(2.0**-40) * unit)


def _problem(function: str, rng: np.random.Generator, far: bool, **options: Any) -> Case:
    """Four samples, with weights of every kind the function takes."""
    scale = 60.0 if far else 3.0
    arrays: dict[str, Floats]
    if function in BINARY:
        x = rng.normal(size=4) * scale
        if function == "binary_cross_entropy":
            x = rng.random(4)
        arrays = {"logits": x, "target": rng.random(4), "sample_weight": rng.random(4)}
        arrays["pos_weight"] = rng.random(4) + 0.5
        kind = "float"
    elif function in GIVEN:
        x = -np.abs(rng.normal(size=(4, 3))) * scale
        t = np.where(np.arange(4)[:, None] % 2 == 0, np.exp(x) * (1 + 1e-6), rng.random(x.shape))
        arrays, kind = {"logits": x, "target": t, "sample_weight": rng.random(4)}, "float"
    elif function in DIVERGENCES:
        x = rng.normal(size=(4, 3)) * scale
        t = np.where(np.arange(4)[:, None] % 2 == 0, x + rng.normal(size=x.shape) * 1e-6, np.roll(x, 1, axis=0))
        arrays, kind = {"logits": x, "target": t, "sample_weight": rng.random(4)}, "float"
    else:
        x = rng.normal(size=(4, 3)) * scale
        x = -np.abs(x) if function == "nll_loss" else x
        kind = options.pop("kind", "index")
        target = rng.integers(3, size=4).astype(float) if kind == "index" else rng.random((4, 3))
        arrays = {
            "logits": x,
            "target": target,
            "class_weight": rng.random(3),
            "sample_weight": rng.random(4),
        }
        if function == "softmax_focal_loss":
            arrays["alpha"] = rng.random(3)
    wrt = tuple(n for n in arrays if n != "target" or kind == "float")
    cotangent = rng.random(4) if options.get("reduction") == "none" else None
    return Case(function, "", "", "float64", arrays, options, kind, cotangent, wrt)


NOISY: dict[str, dict[str, float]] = {
    "generalized_cross_entropy": {"q": 0.375},
    "symmetric_cross_entropy": {"alpha": 0.25, "beta": 1.5, "log_zero": -4.0},
}
LOSSES = (*CATEGORICAL, *DIVERGENCES, *BINARY)
REDUCTIONS = ("none", "mean", "sum", Reduce("Mean", {"over": "all"}), Reduce("Hardest", {"k": 2}))


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
@pytest.mark.parametrize("function", LOSSES)
def test_losses_and_all_gradients(function: str, reduction: str | Reduce) -> None:
    rng = np.random.default_rng(1)
    for far in (False, True) if reduction == "none" else (False,):
        options: dict[str, Any] = {"reduction": reduction}
        if function not in ("nll_loss", *DIVERGENCES):
            options["label_smoothing"] = 0.125
        if function == "poly_loss":
            options["epsilon"] = -0.75
        options |= NOISY.get(function, {})
        if function == "asymmetric_loss":
            options |= {"gamma_positive": 0.5, "gamma_negative": 1.5, "margin": 0.0625}
        if "focal" in function:
            options["gamma"] = 1.5
        if function == "sigmoid_focal_loss":
            options["alpha"] = 0.25
        for kind in ("index", "float") if function in CATEGORICAL else ("float",):
            case = _problem(function, rng, far, **options, **({"kind": kind} if function in CATEGORICAL else {}))
            _check(case, FAR if far else NEAR)


@pytest.mark.parametrize("kind", ["index", "float"])
def test_temperature(kind: str) -> None:
    rng = np.random.default_rng(5)
    for function in ("cross_entropy", "kl_divergence_with_logits"):
        options = {"kind": kind, "label_smoothing": 0.125} if function in CATEGORICAL else {}
        _check(_problem(function, rng, False, reduction="mean", temperature=2.5, **options), NEAR)


@pytest.mark.parametrize("kind", ["index", "float"])
def test_exponents_and_shares_that_are_arrays(kind: str) -> None:
    rng = np.random.default_rng(4)
    for function in ("softmax_focal_loss", "sigmoid_focal_loss"):
        of_kind = {"kind": kind} if function in CATEGORICAL else {}
        case = _problem(function, rng, False, reduction="mean", label_smoothing=0.125, **of_kind)
        arrays = {"gamma": np.asarray([0.5, 2.0, 1.25, 3.0])[: case.arrays["logits"].shape[-1]], **case.arrays}
        if function in BINARY:
            arrays["alpha"] = rng.random(4)
        _check(replace(case, arrays=arrays, wrt=(*case.wrt, "gamma", "alpha")), NEAR)


def _check(case: Case, digits: int) -> None:
    found = exact(case)
    with mpmath.workdps(digits):
        total = _value(case, _lists(case))
        value = found["value"]
        cotangent = np.ones(1) if case.cotangent is None else case.cotangent
        pairs = zip(value.high.ravel(), value.low.ravel(), cotangent, strict=True)
        ours = sum(mpmath.mpf(float(g)) * (mpmath.mpf(float(h)) + mpmath.mpf(float(lo))) for h, lo, g in pairs)
        assert abs(ours - total) <= mpmath.mpf(2) ** -90 * abs(total), case.label
        for name in case.wrt:
            entry = found[f"d {name}"]
            for at in range(entry.high.size):
                triple = [float(a.ravel()[at]) for a in (entry.high, entry.low, entry.scale)]
                assert _same(*triple, _slope(case, name, at)), (case.label, name, at)


@pytest.mark.parametrize("function", ["softmax", "log_softmax", "logsumexp", "sigmoid", "log_sigmoid"])
@pytest.mark.parametrize("pulled", ["one", "all"])
def test_functions_and_their_pullbacks(function: str, pulled: str) -> None:
    rng = np.random.default_rng(2)
    scalar = function in ("sigmoid", "log_sigmoid")
    for scale in (1e-6, 1.0, 60.0):
        x = rng.normal(size=4) * scale
        g = rng.normal(size=() if function == "logsumexp" else 4)
        if pulled == "one" and g.ndim:
            g[[0, 2, 3]] = 0
        case = Case(function, "", "", "float64", {"logits": x}, cotangent=np.asarray(g))
        found = exact(case)

        def value(v: list[Any]) -> list[Any]:
            if scalar:
                p = [1 / (1 + mpmath.exp(-a)) for a in v]
                return p if function == "sigmoid" else [mpmath.log(a) for a in p]
            total = sum(mpmath.exp(a) for a in v)
            if function == "logsumexp":
                return [mpmath.log(total)]
            p = [mpmath.exp(a) / total for a in v]
            return p if function == "softmax" else [mpmath.log(a) for a in p]

        with mpmath.workdps(FAR):
            step = mpmath.mpf(10) ** (-mpmath.mp.dps // 3)
            start = [mpmath.mpf(float(a)) for a in x]
            entry = found["value"]
            for at, due in enumerate(value(start)):
                assert _same(*(float(a.ravel()[at]) for a in (entry.high, entry.low, entry.scale)), due)
            entry = found["d logits"]
            for at in range(4):
                ends = [value([a + sign * step * (i == at) for i, a in enumerate(start)]) for sign in (1, -1)]
                moved = zip(np.ravel(g), ends[0], ends[1], strict=True)
                due = sum(mpmath.mpf(float(w)) * (up - down) for w, up, down in moved) / (2 * step)
                assert _same(*(float(a.ravel()[at]) for a in (entry.high, entry.low, entry.scale)), due)


def _natively(torch: Any, case: Case, a: dict[str, Any]) -> Any:
    """The same by torch's own functions, in its float64."""
    f, x = torch.nn.functional, a["logits"]
    transforms = {"softmax": f.softmax, "log_softmax": f.log_softmax, "logsumexp": torch.logsumexp}
    if case.function in transforms:
        return transforms[case.function](x, dim=-1)
    if case.function in ("sigmoid", "log_sigmoid"):
        return torch.sigmoid(x) if case.function == "sigmoid" else f.logsigmoid(x)
    y, gamma, smoothing = a["target"], case.options.get("gamma"), case.options.get("label_smoothing", 0.0)
    if case.function in DIVERGENCES:
        weight, given = a["sample_weight"], case.function in GIVEN
        log_p, q = (x, y) if given else (f.log_softmax(x, -1), f.softmax(y, -1))
        m = ((log_p.exp() + q) / 2).log()
        losses = f.kl_div(log_p, q, reduction="none").sum(-1)
        if case.function.startswith("js"):
            losses = (f.kl_div(m, log_p, reduction="none", log_target=True) + f.kl_div(m, q, reduction="none")).sum(
                -1
            ) / 2
    elif case.function in BINARY:
        # torch differentiates by no weight of its own.
        weight, y = a["sample_weight"], (1 - smoothing) * y + smoothing / 2
        if case.function == "asymmetric_loss":
            one, zero, margin = (case.options[name] for name in ("gamma_positive", "gamma_negative", "margin"))
            p, raised = torch.sigmoid(x), (torch.sigmoid(x) - margin).clamp(min=0)
            ones = a["pos_weight"] * y * (1 - p) ** one * f.logsigmoid(x)
            losses = -(ones + (1 - y) * raised**zero * torch.log1p(-raised))
        elif case.function == "binary_cross_entropy":
            losses = -(a["pos_weight"] * y * torch.log(x) + (1 - y) * torch.log1p(-x))
        else:
            p, power, alpha = torch.sigmoid(x), gamma or 0.0, case.options.get("alpha")
            one, zero = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
            ones = one * a["pos_weight"] * y * (1 - p) ** power * f.logsigmoid(x)
            losses = -(ones + zero * (1 - y) * p**power * f.logsigmoid(-x))
    else:
        q = y if y.is_floating_point() else f.one_hot(y, x.shape[-1]).to(x.dtype)
        weight = a["sample_weight"] * (q * a["class_weight"]).sum(-1)
        q = ((1 - smoothing) * q + smoothing / x.shape[-1]) * a["class_weight"] * a.get("alpha", 1)
        log_p = x if case.function == "nll_loss" else f.log_softmax(x, -1)
        losses = -(q * (1 if gamma is None else (1 - f.softmax(x, -1)) ** gamma) * log_p).sum(-1)
        p = f.softmax(x, -1)
        if case.function == "generalized_cross_entropy":
            losses = (q * (1 - p ** case.options["q"]) / case.options["q"]).sum(-1)
        if case.function == "symmetric_cross_entropy":
            alpha, beta, log_zero = (case.options[name] for name in ("alpha", "beta", "log_zero"))
            losses = alpha * losses - beta * log_zero * (q * (1 - p)).sum(-1)
        if case.function == "poly_loss":
            losses = losses + case.options["epsilon"] * (q * (1 - f.softmax(x, -1))).sum(-1)
    losses = a["sample_weight"] * losses
    how = case.options["reduction"]
    return losses if how == "none" else losses.sum() if how == "sum" else losses.sum() / weight.sum()


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_torch_agrees_in_float64(function: str, reduction: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    problems = []
    if function in LOSSES:
        options: dict[str, Any] = {"reduction": reduction}
        if function not in ("nll_loss", *DIVERGENCES):
            options["label_smoothing"] = 0.125
        options |= {"gamma": 1.5} if "focal" in function else {}
        options |= {"epsilon": -0.75} if function == "poly_loss" else {}
        options |= NOISY.get(function, {})
        if function == "asymmetric_loss":
            options |= {"gamma_positive": 0.5, "gamma_negative": 2.0, "margin": 0.05}
        options |= {"alpha": 0.25} if function == "sigmoid_focal_loss" else {}
        kinds: tuple[dict[str, Any], ...] = ({"kind": "index"}, {"kind": "float"}) if function in CATEGORICAL else ({},)
        problems = [_problem(function, rng, False, **options, **kind) for kind in kinds]
    elif reduction == "none":
        x = rng.normal(size=(5, 3)) * 3
        pulled = rng.normal(size=5 if function == "logsumexp" else x.shape)
        problems = [Case(function, "", "", "float64", {"logits": x}, cotangent=pulled)]
    for case in problems:
        found = exact(case)
        tensors = {
            name: torch.tensor(values).requires_grad_(name in case.wrt)
            if name in case.wrt or name != "target"
            else torch.tensor(values).long()
            for name, values in case.arrays.items()
        }
        value = _natively(torch, case, tensors)
        np.testing.assert_allclose(found["value"].high, value.detach().numpy(), rtol=1e-13, atol=1e-15)
        cotangent = torch.ones(()) if case.cotangent is None else torch.tensor(case.cotangent)
        value.backward(cotangent.to(torch.float64))
        for name in case.wrt:
            slope = tensors[name].grad.numpy()
            np.testing.assert_allclose(found[f"d {name}"].high, slope, rtol=1e-11, atol=1e-13, err_msg=name)


def test_no_digit_of_a_confident_answer_is_lost() -> None:
    arrays = {"logits": np.asarray([[40.0, 0.0]]), "target": np.asarray([0.0])}
    found = exact(Case("cross_entropy", "", "", "float32", arrays, {}, "index"))
    assert found["value"].high == pytest.approx(np.exp(-40.0), rel=1e-15)
    assert found["d logits"].high[0] == pytest.approx([-np.exp(-40.0), np.exp(-40.0)], rel=1e-15)


@pytest.mark.parametrize(
    ("function", "kind", "shape", "axis"),
    [
        ("cross_entropy", "index", (40, 3), -1),
        ("cross_entropy", "index", (3, 40), 0),
        ("cross_entropy", "float", (3,), -1),
        ("kl_divergence_with_logits", "float", (3,), -1),
        ("binary_cross_entropy_with_logits", "float", (40,), -1),
    ],
)
def test_repeated_samples_are_counted_not_computed_again(
    function: str, kind: str, shape: tuple[int, ...], axis: int
) -> None:
    x = np.resize(np.asarray([0.5, -1.0, 2.0, 0.25, 3.0, -2.0]), shape)
    lead = x.shape if function in BINARY else tuple(np.delete(shape, axis))
    target = np.resize([1.0, 0.0], lead if kind == "index" else shape)
    case = Case(function, "", "", "float32", {"logits": x, "target": target}, {"axis": axis}, kind, None, ())
    if function in BINARY:
        case = replace(case, options={})
    plain = exact(replace(case, wrt=("logits",)))["value"]
    assert float(exact(case)["value"].high) == pytest.approx(float(plain.high), rel=1e-15)
