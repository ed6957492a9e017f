"""value_and_grad and grad: the closed form on every library, and autodiff's answer where there is one."""

import copy
import inspect
import math
import pickle
from typing import Any

import numpy as np
import pytest
import reference

import arrayloss
from arrayloss import Hardest, Mean, cross_entropy, extending, grad, value_and_grad
from arrayloss.compat import torch

RNG = np.random.default_rng(11)
LOGITS = RNG.normal(size=(5, 3)).round(3)
LABELS = np.array([0, 2, 1, 1, 0])
SOFT = RNG.dirichlet(np.ones(3), size=5)
BITS = (LOGITS > 0.2).astype(np.int64)
INPUTS = {
    "nll_loss": (LOGITS, LABELS),
    "cross_entropy": (LOGITS, LABELS),
    "softmax_focal_loss": (LOGITS, SOFT),
    "poly_loss": (LOGITS, LABELS),
    "generalized_cross_entropy": (LOGITS, LABELS),
    "symmetric_cross_entropy": (LOGITS, SOFT),
    "kl_divergence": (np.log(np.roll(SOFT, 1, axis=0)), SOFT),
    "kl_divergence_with_logits": (LOGITS, np.log(SOFT)),
    "js_divergence": (np.log(np.roll(SOFT, 1, axis=0)), SOFT),
    "js_divergence_with_logits": (LOGITS, np.log(SOFT)),
    "binary_cross_entropy": (1 / (1 + np.exp(-LOGITS)), BITS),
    "binary_cross_entropy_with_logits": (LOGITS, BITS),
    "sigmoid_focal_loss": (LOGITS, SOFT),
    "asymmetric_loss": (LOGITS, SOFT),
}
NOISY: dict[str, dict[str, float]] = {
    "generalized_cross_entropy": {"q": 0.7},
    "symmetric_cross_entropy": {"scale": 0.1, "epsilon": -np.log(1e-4)},
}
DIVERGENCES = ["kl_divergence", "kl_divergence_with_logits", "js_divergence", "js_divergence_with_logits"]
CATEGORICAL = ["nll_loss", "cross_entropy", "softmax_focal_loss", "poly_loss", *NOISY, *DIVERGENCES]


def test_what_help_says_of_a_loss() -> None:
    """An array comes back, whatever it is made of inside."""
    for loss in (cross_entropy, torch.cross_entropy):
        assert inspect.signature(loss).return_annotation == "A"


@pytest.mark.compiled
@pytest.mark.autodiff
@pytest.mark.only(lambda backend: backend.name in ("torch:cpu", "jax:cpu:jit"))
@pytest.mark.only(lambda backend, reduction: backend.name == "torch:cpu" or reduction == "mean")
@pytest.mark.parametrize("reduction", ["mean", "sum", Mean(over="all"), Hardest(k=2)], ids=str)
@pytest.mark.parametrize("name", INPUTS)
def test_the_closed_form_is_autodiffs_answer(backend: Any, name: str, reduction: Any) -> None:
    loss = getattr(arrayloss, name)
    x, y = (backend.asarray(a) for a in INPUTS[name])
    value, closed = value_and_grad(loss)(x, y, reduction=reduction)
    again, autodiff = backend.pullback(lambda x, y: loss(x, y, reduction=reduction), x, y)
    # One derivative, written once: the two differ by the order of a sum or product, and by what a compiler fuses.
    rtol = 1e-13 if not backend.compiled else backend.rtol()
    np.testing.assert_allclose(backend.to_numpy(value), backend.to_numpy(again), rtol=rtol)
    np.testing.assert_allclose(backend.to_numpy(closed), backend.to_numpy(autodiff), rtol=rtol, atol=1e-4 * rtol)


@pytest.mark.parametrize("name", INPUTS)
def test_the_value_is_the_plain_functions(backend: Any, name: str) -> None:
    loss = getattr(arrayloss, name)
    x, y = (backend.asarray(a) for a in INPUTS[name])
    value, gradient = value_and_grad(loss)(x, y)
    np.testing.assert_allclose(backend.to_numpy(value), backend.to_numpy(loss(x, y)), rtol=backend.rtol())
    assert gradient.dtype == x.dtype
    assert tuple(gradient.shape) == tuple(x.shape)
    assert tuple(value.shape) == ()
    assert backend.device_of(gradient) == backend.device_of(x)


@pytest.mark.only(lambda backend: backend.name in ("numpy", "torch:cpu"))
@pytest.mark.parametrize("name", ["binary_cross_entropy_with_logits", "sigmoid_focal_loss"])
def test_a_sum_of_many_is_that_of_their_losses(backend: Any, name: str) -> None:
    """Where there are many, eager libraries work in blocks."""
    loss, n = getattr(arrayloss, name), 300_001
    rng = np.random.default_rng(12)
    x = (30 * rng.standard_normal(n)).astype(np.float32)
    x[::1000] = -np.inf
    x, y = (backend.asarray(a) for a in (x, (rng.random(n) > 0.5).astype(np.float32) * (x > -np.inf)))
    losses = backend.to_numpy(loss(x, y, reduction="none")).astype(np.float64)
    value, gradient = value_and_grad(loss)(x, y, reduction="sum")
    np.testing.assert_allclose(backend.to_numpy(value), losses.sum(), rtol=1e-5)
    np.testing.assert_allclose(backend.to_numpy(loss(x, y, reduction="sum")), losses.sum(), rtol=1e-5)
    _, each = value_and_grad(loss)(x, y, reduction="none", cotangent=backend.asarray(np.ones(n, np.float32)))
    np.testing.assert_allclose(backend.to_numpy(gradient), backend.to_numpy(each), rtol=1e-6)


@pytest.mark.parametrize("name", INPUTS)
def test_grad_is_the_second_half(backend: Any, name: str) -> None:
    loss = getattr(arrayloss, name)
    x, y = (backend.asarray(a) for a in INPUTS[name])
    _, gradient = value_and_grad(loss)(x, y, reduction="sum")
    alone = grad(loss)(x, y, reduction="sum")
    np.testing.assert_array_equal(backend.to_numpy(alone), backend.to_numpy(gradient))


@pytest.mark.parametrize("name", INPUTS)
def test_cotangent(backend: Any, name: str) -> None:
    loss = getattr(arrayloss, name)
    logits, target = INPUTS[name]
    shape = (5,) if name in CATEGORICAL else (5, 3)
    cotangent = np.random.default_rng(1).normal(size=shape).round(3)
    family = reference.categorical if name in CATEGORICAL else reference.binary
    options: dict[str, Any] = {"gamma": 2.0} if "focal" in name else {}
    options |= {"log_probs": True} if name == "nll_loss" else {}
    options |= {"epsilon": 2.0} if name == "poly_loss" else {}
    options |= {"gammas": (1.0, 4.0), "margin": 0.05} if name == "asymmetric_loss" else {}
    options |= NOISY.get(name, {})
    if name in DIVERGENCES:
        family = reference.divergence
        options = {"given": "logits" not in name, "jensen_shannon": name.startswith("js")}
    options |= {"probs": True} if name == "binary_cross_entropy" else {}
    value = reference.value(family, logits, target, **options)
    gradient = reference.gradient(family, logits, target, reduce=reference.none, cotangent=cotangent, **options)
    backend.agree(loss, logits, target, value, gradient, reduction="none", cotangent=cotangent, rtol=8 * backend.rtol())
    x, y, seed = backend.asarray(logits), backend.asarray(target), backend.asarray(cotangent)
    alone = grad(loss)(x, y, reduction="none", cotangent=seed)
    np.testing.assert_allclose(
        backend.to_numpy(alone),
        gradient,
        rtol=8 * backend.rtol(),
        atol=8 * backend.rtol() * np.abs(gradient).max(),
    )


def test_a_cotangent_of_zero_stops_a_nan(backend: Any) -> None:
    """0 times the NaN or inf of a sample nobody asked about: the others must come through."""
    logits = np.array([[np.nan, 0.0], [0.0, 0.0]])
    seed = backend.asarray(np.array([0.0, 1.0]))
    x, y = backend.asarray(logits), backend.asarray(np.array([0, 1]))
    gradient = backend.to_numpy(grad(cross_entropy)(x, y, reduction="none", cotangent=seed))
    np.testing.assert_allclose(gradient[1], [0.5, -0.5], rtol=backend.rtol())


def test_options_reach_the_loss(backend: Any) -> None:
    options: dict[str, Any] = {
        "axis": 0,
        "label_smoothing": 0.1,
        "class_weight": np.array([1.0, 0.5, 2.0]),
        "sample_weight": np.array([1.0, 2.0, 0.5, 0.25, 3.0]),
    }
    value = reference.value(reference.categorical, LOGITS.T, LABELS, reduce=reference.mean, **options)
    gradient = reference.gradient(reference.categorical, LOGITS.T, LABELS, reduce=reference.mean, **options)
    backend.agree(cross_entropy, LOGITS.T, LABELS, value, gradient, rtol=4 * backend.rtol(), **options)


@pytest.mark.only(lambda backend: "float16" in backend.floats)
def test_half_logits_get_a_half_gradient(backend: Any) -> None:
    """dtype= asks for another value; the gradient is the logits' own type."""
    x, y = backend.asarray(LOGITS, "float16"), backend.asarray(LABELS)
    value, gradient = value_and_grad(cross_entropy)(x, y, dtype=backend.dtype("float32"))
    assert backend.dtype_name(value) == "float32"
    assert backend.dtype_name(gradient) == "float16"
    rounded = LOGITS.astype(np.float16).astype(float)
    expected = reference.value(reference.categorical, rounded, LABELS, reduce=reference.mean)
    np.testing.assert_allclose(backend.to_numpy(value), expected, rtol=backend.rtol("float32"))


def test_it_keeps_the_name_of_its_loss() -> None:
    assert "cross_entropy" in value_and_grad(cross_entropy).__name__
    assert "cross_entropy" in grad(cross_entropy).__name__


@pytest.mark.parametrize("make", [value_and_grad, grad], ids=lambda f: f.__name__)
@pytest.mark.parametrize("loss", [cross_entropy, torch.cross_entropy], ids=lambda f: f.__module__)
def test_it_can_be_pickled_and_copied(make: Any, loss: Any) -> None:
    made = make(loss)
    expected = made(LOGITS, LABELS, reduction="sum")
    for again in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made), copy.copy(made)):
        assert again == made
        assert hash(again) == hash(made)
        assert again.__name__ == made.__name__
        assert inspect.signature(again) == inspect.signature(made)
        for got, wanted in zip(again(LOGITS, LABELS, reduction="sum"), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
    assert make(loss) != make(arrayloss.nll_loss)


def test_its_signature_is_that_of_its_loss_and_a_cotangent() -> None:
    taken = inspect.signature(value_and_grad(cross_entropy)).parameters
    assert list(taken) == [*inspect.signature(cross_entropy).parameters, "cotangent"]
    with pytest.raises(TypeError, match=r"cross_entropy\(\) got an unexpected keyword argument 'label_smothing'"):
        value_and_grad(cross_entropy)(LOGITS, LABELS, label_smothing=0.1)  # type: ignore[call-overload]


def test_the_problem_of_another_loss() -> None:
    """A loss that starts from another one, as the presets do."""

    @extending.loss
    def summed(logits: Any, target: Any, /, **options: Any) -> Any:
        return extending.problem(cross_entropy, logits, target, reduction="sum", **options)

    assert summed(LOGITS, LABELS, axis=1) == cross_entropy(LOGITS, LABELS, reduction="sum")
    both = value_and_grad(summed)
    assert list(inspect.signature(both).parameters) == ["logits", "target", "cotangent", "options"]
    np.testing.assert_array_equal(both(LOGITS, LABELS)[1], grad(cross_entropy)(LOGITS, LABELS, reduction="sum"))
    with pytest.raises(TypeError, match="problem takes a loss of arrayloss, such as cross_entropy, not len"):
        extending.problem(len, LOGITS)


WHERE = LOGITS.min(1, keepdims=True) < LOGITS
FUNCTIONS: list[tuple[str, dict[str, Any]]] = [
    ("softmax", {"axis": 0}),
    ("softmax", {"where": WHERE}),
    ("log_softmax", {"where": WHERE}),
    ("logsumexp", {"where": WHERE}),
    ("logsumexp", {"axis": 0, "keepdims": True}),
    ("sigmoid", {}),
    ("log_sigmoid", {}),
]


@pytest.mark.parametrize(("name", "options"), FUNCTIONS, ids=lambda v: v if isinstance(v, str) else "+".join(v))
def test_functions(backend: Any, name: str, options: dict[str, Any]) -> None:
    """The functions too: the value is the plain call's, the gradient that of the formula in decimals."""
    function, axis, where = getattr(arrayloss, name), options.get("axis", -1), options.get("where", True)
    x, given = backend.asarray(LOGITS), backend.options(options)
    plain = backend.to_numpy(function(x, **given))
    seed = np.random.default_rng(2).normal(size=plain.shape).round(3)
    value, gradient = value_and_grad(function)(x, **given, cotangent=backend.asarray(seed))
    np.testing.assert_array_equal(backend.to_numpy(value), plain)
    counts = where if name in ("softmax", "log_softmax") else True

    def weighed(a: Any) -> Any:
        e = reference._exp(a)
        if "sigmoid" in name:
            y = 1 / (1 + reference._exp(-a))
        else:
            total = np.asarray(np.where(where, e, 0).sum(axis, keepdims=True), dtype=object)
            y = total if name == "logsumexp" else e / total
            y = y if plain.ndim == y.ndim else y[:, 0]
        y = y if name in ("softmax", "sigmoid") else reference._ln(y)
        return (y * reference.exact(np.where(counts, seed, 0))).sum()

    due = np.where(where, reference.difference(weighed, LOGITS), 0)
    rtol = 8 * backend.rtol()
    np.testing.assert_allclose(backend.to_numpy(gradient), due, rtol=rtol, atol=rtol)
    with pytest.raises(TypeError, match="cotangent"):
        grad(function)(x)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_rows_that_where_leaves_out_have_no_gradient(backend: Any, name: str) -> None:
    x, where = backend.asarray(np.asarray([[1.0, 2.0], [0.0, 1.0]])), np.asarray([[False, False], [True, True]])
    shape = 2 if name == "logsumexp" else (2, 2)
    gradient = grad(getattr(arrayloss, name))(
        x, where=backend.asarray(where), cotangent=backend.asarray(np.ones(shape))
    )
    assert backend.to_numpy(gradient)[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_sample_that_does_not_count_stops_any_cotangent(backend: Any, bad: float) -> None:
    x, labels = backend.asarray(np.asarray([[1.0, 2.0], [0.0, 1.0]])), backend.asarray(np.asarray([-100, 1]))
    pull = backend.asarray(np.asarray([bad, 1.0]))
    for loss in (arrayloss.cross_entropy, arrayloss.softmax_focal_loss):
        gradient = backend.to_numpy(grad(loss)(x, labels, reduction="none", cotangent=pull))
        assert gradient[0].tolist() == [0.0, 0.0]
        assert gradient[1, 0] > 0


def test_a_divisor_does_not_round_the_gradient() -> None:
    """Of another dtype than the logits."""
    x, labels = np.asarray([[1.0, 2.0]]), np.asarray([1])
    mean = arrayloss.Mean
    found = grad(arrayloss.cross_entropy)(x, labels, reduction=mean(over=np.asarray(3, np.float32)))
    np.testing.assert_allclose(found, grad(arrayloss.cross_entropy)(x, labels, reduction=mean(over=3)), rtol=1e-15)
