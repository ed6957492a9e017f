"""torch: autograd to the second order, torch.func, torch.compile forward and backward."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import reference

import arrayloss
from arrayloss import (
    Hardest,
    Mean,
    asymmetric_loss,
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    kl_divergence_with_logits,
    nll_loss,
    poly_loss,
    sigmoid_focal_loss,
    softmax_focal_loss,
    value_and_grad,
)

torch = pytest.importorskip("torch", reason="torch is not installed")

CATEGORICAL = [nll_loss, cross_entropy, softmax_focal_loss, poly_loss]
BINARY = [binary_cross_entropy, binary_cross_entropy_with_logits, sigmoid_focal_loss, asymmetric_loss]
LABELS = torch.tensor([0, 2, -100, 1])


def names(x: Any) -> str:
    return getattr(x, "__name__", str(x))


def doubles(*shape: int, low: float = -2.0, high: float = 2.0, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return (low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)).requires_grad_()


def probabilities(rows: int, classes: int, seed: int = 1) -> Any:
    return doubles(rows, classes, seed=seed).detach().softmax(-1).requires_grad_()


def check(f: Callable[..., Any], *inputs: Any) -> None:
    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs)


# --- autograd -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["none", "mean", Mean(over="all")], ids=str)
@pytest.mark.parametrize("loss", CATEGORICAL, ids=names)
def test_index_labels(loss: Any, reduction: Any) -> None:
    check(lambda x: loss(x, LABELS, reduction=reduction), doubles(4, 3, low=-2, high=-0.1))


@pytest.mark.parametrize("loss", CATEGORICAL, ids=names)
def test_categorical_inputs_all_differentiate(loss: Any) -> None:
    """Logits, probabilities, both weights and alpha at once: the mean divides by three of them."""
    focal = loss is softmax_focal_loss

    def f(x: Any, t: Any, w: Any, c: Any, *of_classes: Any) -> Any:
        extra = dict(zip(("alpha", "gamma"), of_classes, strict=True)) if focal else {}
        smoothing = {} if loss is nll_loss else {"label_smoothing": 0.1}
        return loss(x, t, sample_weight=w, class_weight=c, **smoothing, **extra)

    inputs = [doubles(3, 4, low=-2, high=-0.1), probabilities(3, 4), doubles(3, low=0.5), doubles(4, low=0.5)]
    check(f, *inputs, *([doubles(4, low=0.2, high=0.9, seed=3), doubles(4, low=0.5, high=2.5)] if focal else []))


def test_temperature() -> None:
    """A learned one, too; value_and_grad, which is by the logits, takes it as a number."""
    x, temperature = doubles(4, 3), torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    check(lambda x, t: cross_entropy(x, LABELS, temperature=t), x, temperature)
    both = value_and_grad(cross_entropy)(x.detach(), LABELS, temperature=temperature)
    for one, two in zip(both, value_and_grad(cross_entropy)(x.detach(), LABELS, temperature=1.5), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("loss", CATEGORICAL, ids=names)
def test_weights_of_index_labels(loss: Any) -> None:
    def f(x: Any, w: Any, c: Any) -> Any:
        return loss(x, LABELS, sample_weight=w, class_weight=c)

    check(f, doubles(4, 3, low=-2, high=-0.1), doubles(4, low=0.5), doubles(3, low=0.5, seed=2))


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("loss", BINARY, ids=names)
def test_binary_inputs_all_differentiate(loss: Any, reduction: str) -> None:
    x = doubles(3, 2, low=0.1, high=0.9) if loss is binary_cross_entropy else doubles(3, 2)
    t, w = doubles(3, 2, low=0.1, high=0.9, seed=1), doubles(3, 1, low=0.5, seed=2)
    pos, alpha = doubles(2, low=0.5, seed=3), doubles(2, low=0.2, high=0.8, seed=4)
    if loss is sigmoid_focal_loss:

        def focal(x: Any, t: Any, w: Any, pos: Any, alpha: Any, gamma: Any) -> Any:
            options = {"sample_weight": w, "pos_weight": pos, "alpha": alpha, "gamma": gamma}
            return loss(x, t, **options, label_smoothing=0.1, reduction=reduction)

        check(focal, x, t, w, pos, alpha, doubles(3, 1, low=0.5, high=2.5, seed=5))
    else:
        check(lambda *a: loss(*a[:2], sample_weight=a[2], pos_weight=a[3], reduction=reduction), x, t, w, pos)


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacrev], ids=names)
def test_func_of_divergence(transform: Any) -> None:
    x, t = doubles(2, 4, 3).detach(), doubles(2, 4, 3, seed=1).detach()
    both = torch.func.vmap(transform(kl_divergence_with_logits, argnums=(0, 1)))(x, t)
    for i in range(2):
        leaves = [a[i].clone().requires_grad_() for a in (x, t)]
        expected = torch.autograd.grad(kl_divergence_with_logits(*leaves), leaves)
        for a, b in zip(both, expected, strict=True):
            torch.testing.assert_close(a[i], b)


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 3.5])
def test_gamma(gamma: float) -> None:
    check(lambda x: sigmoid_focal_loss(x, torch.tensor([1, 0, 1]), gamma=gamma), doubles(3))
    check(lambda x: softmax_focal_loss(x, LABELS, gamma=gamma), doubles(4, 3))


@pytest.mark.parametrize("epsilon", [-1, -0.5, 0])
def test_epsilon(epsilon: float) -> None:
    check(lambda x: poly_loss(x, LABELS, epsilon=epsilon), doubles(4, 3))


@pytest.mark.parametrize("options", [{"gamma_negative": 0}, {"gamma_negative": 1.5, "margin": 0.0}, {"margin": 0.5}])
def test_asymmetry(options: Any) -> None:
    check(lambda x: asymmetric_loss(x, torch.tensor([1, 0, 1, 0]), **options), doubles(4))


def test_divergence() -> None:
    """By the student and the teacher, next to each other, far apart and of class masks; weights too."""
    x, t, w = doubles(4, 3), doubles(4, 3, seed=1), doubles(4, low=0.5)
    check(lambda x, t, w: kl_divergence_with_logits(x, t, sample_weight=w), x, t, w)
    check(lambda x, t: kl_divergence_with_logits(x, t, reduction="none"), x, (x * (1 + 1e-9)).detach().requires_grad_())
    check(lambda x, t: kl_divergence_with_logits(20 * x, 20 * t, reduction="sum"), x, t)
    mask = torch.tensor([[0.0, 0.0, -torch.inf]])
    check(lambda x, t: kl_divergence_with_logits(x + mask, t + mask, reduction="sum"), x, t)


def test_divergence_of_ignored_rows() -> None:
    x = torch.tensor([[torch.nan, 0.0], [1.0, 0.0]], requires_grad=True)
    t = torch.tensor([[0.0, torch.nan], [0.0, 0.0]], requires_grad=True)
    value = kl_divergence_with_logits(x, t, where=torch.tensor([False, True]))
    first = torch.autograd.grad(value, (x, t), create_graph=True)
    for g in first:
        assert (g[0] == 0).all()
        for h in torch.autograd.grad(g[1, 0], (x, t), retain_graph=True):
            assert (h[0] == 0).all()
            assert torch.isfinite(h).all()


def test_hardest() -> None:
    check(lambda x: cross_entropy(x, LABELS, reduction=Hardest(k=2)), doubles(4, 3))


def test_axis() -> None:
    labels = torch.tensor([[0, 2], [1, 1]])
    check(lambda x: cross_entropy(x, labels, axis=1, label_smoothing=0.2), doubles(2, 3, 2))


@pytest.mark.parametrize(
    "f",
    [
        arrayloss.softmax,
        arrayloss.log_softmax,
        arrayloss.logsumexp,
        arrayloss.sigmoid,
        arrayloss.log_sigmoid,
        lambda x: arrayloss.softmax(x, axis=0),
        lambda x: arrayloss.logsumexp(x, axis=0, keepdims=True),
        lambda x: arrayloss.softmax(x, where=torch.tensor([[True, False, True]] * 2)),
        lambda x: arrayloss.logsumexp(x, where=torch.tensor([[True, False, True]] * 2)),
    ],
    ids=names,
)
def test_activations(f: Any) -> None:
    check(f, doubles(2, 3))


def test_the_slope_of_a_weight_of_zero() -> None:
    """(loss_i - mean) / W: leaving a sample out by its weight does not make its weight's slope zero."""
    x = doubles(3, 2).detach()
    labels, w = (
        torch.tensor([0, 1, 0]),
        torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True),
    )
    (slope,) = torch.autograd.grad(cross_entropy(x, labels, sample_weight=w), w)
    losses = cross_entropy(x, labels, reduction="none")
    mean = cross_entropy(x, labels, sample_weight=w.detach())
    torch.testing.assert_close(slope, (losses - mean) / 3, rtol=1e-12, atol=0)


def test_distillation() -> None:
    """Through the teacher too: the slope of a soft target is -log p, of a smoothed one (1 - s) times it."""
    x, t = doubles(2, 3), probabilities(2, 3)
    (slope,) = torch.autograd.grad(cross_entropy(x.detach(), t, reduction="sum"), t)
    torch.testing.assert_close(slope, -x.log_softmax(-1).detach(), rtol=1e-12, atol=1e-14)


def test_ignored_rows_have_exactly_zero_gradient() -> None:
    x = torch.tensor([[torch.nan, 0.0], [torch.inf, torch.inf], [1.0, 0.0]], requires_grad=True)
    w = torch.ones(3, requires_grad=True)
    cross_entropy(x, torch.tensor([-100, -100, 0]), sample_weight=w).backward()
    assert (x.grad[:2] == 0).all()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(w.grad).all()


def test_second_derivative_of_ignored_rows() -> None:
    x = torch.tensor([[torch.nan, 0.0], [1.0, 0.0]], requires_grad=True)
    (g,) = torch.autograd.grad(cross_entropy(x, torch.tensor([-100, 0])), x, create_graph=True)
    (h,) = torch.autograd.grad(g[1, 0], x)
    assert (h[0] == 0).all()
    assert torch.isfinite(h).all()


def test_inference_makes_no_graph() -> None:
    x = doubles(4, 3)
    with torch.no_grad():
        assert not cross_entropy(x, LABELS).requires_grad
    with torch.inference_mode():
        assert torch.isfinite(cross_entropy(x.detach(), LABELS))
    assert not cross_entropy(x.detach(), LABELS).requires_grad
    value, gradient = value_and_grad(cross_entropy)(x.detach(), LABELS)
    assert not value.requires_grad
    assert not gradient.requires_grad


def test_logits_inside_a_graph() -> None:
    """A model in front: the gradient reaches the parameters, twice if asked."""
    weight = doubles(2, 3)
    inputs = torch.ones(4, 2, dtype=torch.float64)
    check(lambda w: cross_entropy((inputs @ w).tanh(), LABELS), weight)


def test_accumulates_and_frees_like_any_other() -> None:
    x = doubles(4, 3)
    out = cross_entropy(x, LABELS)
    out.backward(retain_graph=True)
    once = x.grad.clone()
    out.backward()
    torch.testing.assert_close(x.grad, 2 * once)
    with pytest.raises(RuntimeError, match="second time"):
        out.backward()


def _twice(g: Any) -> None:
    g.mul_(2)


@pytest.mark.parametrize(
    ("loss", "hook", "factor"),
    [
        (lambda log_p, t: nll_loss(log_p, t, ignore_index=2), None, 1),
        (lambda log_p, t: nll_loss(log_p, t) + log_p.sum(), None, 1),
        (lambda log_p, t: nll_loss(log_p, t) + nll_loss(log_p, 4 - t), None, 1),
        (lambda log_p, t: nll_loss(log_p, t), _twice, 2),
        (lambda log_p, t: nll_loss(log_p, t), lambda g: 2 * g, 2),
        (lambda log_p, t: nll_loss(2 * log_p, t), None, 1),
    ],
    ids=["ignored", "added to", "twice", "in place", "hook", "scaled"],
)
def test_log_softmax_takes_the_gradient_that_comes(loss: Any, hook: Any, factor: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((64, 40), generator=generator, requires_grad=True)
    t = torch.randint(0, 5, (64,), generator=generator)
    log_p = arrayloss.log_softmax(x)
    if hook is not None:
        log_p.register_hook(hook)
    (gradient,) = torch.autograd.grad(loss(log_p, t), x)
    wide = x.detach().double().requires_grad_()
    (exact,) = torch.autograd.grad(loss(wide.log_softmax(-1), t), wide)
    # Where gradients are added, the difference g - p sum(g) is of numbers up to 1 (each is float32's 6e-8 off).
    torch.testing.assert_close(gradient.double(), factor * exact, rtol=2e-6, atol=1e-6)


def test_views_and_strides() -> None:
    """Transposed, expanded and sliced logits: nothing assumes contiguous memory."""
    base = doubles(3, 8).detach()
    right = cross_entropy(base.T[::2].contiguous(), LABELS)
    torch.testing.assert_close(cross_entropy(base.T[::2], LABELS), right)
    torch.testing.assert_close(cross_entropy(base[:, ::2], LABELS, axis=0), right)
    row = doubles(1, 3)
    check(lambda x: cross_entropy(x.expand(4, 3), LABELS), row)


# --- torch.func ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [*CATEGORICAL, *BINARY], ids=names)
def test_func_grad_vmap_jacrev(loss: Any) -> None:
    low, high = {"nll_loss": (-2.0, -0.1), "binary_cross_entropy": (0.1, 0.9)}.get(loss.__name__, (-2.0, 2.0))
    x = doubles(5, 4, 3, low=low, high=high).detach()
    if loss in CATEGORICAL:
        y = torch.randint(0, 3, (5, 4), generator=torch.Generator().manual_seed(0))
    else:
        y = (x > x.mean()).long()
    per = torch.stack([torch.stack(list(value_and_grad(loss)(a, b))[:1]) for a, b in zip(x, y, strict=True)])[:, 0]
    slopes = torch.stack([value_and_grad(loss)(a, b)[1] for a, b in zip(x, y, strict=True)])
    torch.testing.assert_close(torch.func.grad(loss)(x[0], y[0]), slopes[0])
    torch.testing.assert_close(torch.func.vmap(loss)(x, y), per)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(x, y), slopes)
    jacobian = torch.func.jacrev(lambda a: loss(a, y[0], reduction="none"))(x[0])
    torch.testing.assert_close(jacobian.flatten(0, -3).sum(0), grad_of_sum(loss, x[0], y[0]))
    shared = torch.func.vmap(torch.func.grad(loss), in_dims=(0, None))(x, y[0])
    torch.testing.assert_close(shared[0], slopes[0])


def grad_of_sum(loss: Any, x: Any, y: Any) -> Any:
    return value_and_grad(loss)(x, y, reduction="sum")[1]


def test_func_over_weights_and_soft_targets() -> None:
    x, t, w = doubles(4, 3).detach(), probabilities(4, 3).detach(), doubles(4, low=0.5).detach()

    def f(x: Any, t: Any, w: Any) -> Any:
        return cross_entropy(x, t, sample_weight=w)

    got = torch.func.grad(f, argnums=(0, 1, 2))(x, t, w)
    leaves = [a.clone().requires_grad_() for a in (x, t, w)]
    expected = torch.autograd.grad(f(*leaves), leaves)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)
        assert a.abs().max() > 0


def test_func_hessian() -> None:
    """jacrev of grad; for one row it is diag(p) - p p'."""
    x = doubles(1, 3).detach()
    h = torch.func.jacrev(torch.func.grad(cross_entropy))(x, torch.tensor([1]))
    p = x[0].softmax(-1)
    torch.testing.assert_close(h[0, :, 0], p.diag() - torch.outer(p, p))


def test_per_sample_gradients_of_a_model() -> None:
    """What torch.func is for: grad inside vmap, the label traced with the sample."""
    weight = doubles(2, 3).detach()
    inputs = doubles(4, 2, seed=9).detach()
    labels = torch.tensor([0, 2, 1, 1])

    def one(w: Any, a: Any, y: Any) -> Any:
        return cross_entropy(a @ w, y)

    got = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0))(weight, inputs, labels)
    p = (inputs @ weight).softmax(-1) - torch.nn.functional.one_hot(labels, 3)
    torch.testing.assert_close(got, inputs[:, :, None] * p[:, None, :])


@pytest.mark.parametrize("rows", [5, 500])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_dual_numbers_keep_their_tangents(rows: int, reduction: str) -> None:
    """Forward mode without torch.func: what is looked at on the way must not be made a number for good."""
    generator = torch.Generator().manual_seed(0)
    x, v = (torch.randn(rows, 20, generator=generator) for _ in range(2))
    y = torch.randint(0, 20, (rows,), generator=generator)
    options = {} if reduction == "mean" else {"reduction": reduction}
    with torch.autograd.forward_ad.dual_level():
        out = cross_entropy(torch.autograd.forward_ad.make_dual(x, v), y, **options)
        tangent = torch.autograd.forward_ad.unpack_dual(out).tangent
    assert tangent is not None
    torch.testing.assert_close(tangent, (value_and_grad(cross_entropy)(x, y, **options)[1] * v).sum())


@pytest.mark.parametrize(
    ("loss", "option", "number"),
    [
        (cross_entropy, "temperature", 1.5),
        (cross_entropy, "label_smoothing", 0.25),
        (cross_entropy, "z_loss", 0.5),
        (softmax_focal_loss, "gamma", 1.5),
        (softmax_focal_loss, "alpha", 0.75),
        (binary_cross_entropy_with_logits, "pos_weight", 2.0),
    ],
)
def test_scalar_options_keep_their_tangents(loss: Any, option: str, number: float) -> None:
    x = torch.tensor([[1.0, 2.0, 0.0], [0.5, 0.0, -1.0]], dtype=torch.float64)
    y = torch.tensor([0, 2]) if loss is not binary_cross_entropy_with_logits else torch.tensor([[0, 1, 0], [1, 1, 0]])
    step, at = 1e-6, torch.tensor(number, dtype=torch.float64)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(at, torch.tensor(1.0, dtype=torch.float64))
        tangent = torch.autograd.forward_ad.unpack_dual(loss(x, y, **{option: dual})).tangent
    above, below = (loss(x, y, **{option: number + d}) for d in (step, -step))
    torch.testing.assert_close(tangent, (above - below) / (2 * step), rtol=1e-6, atol=1e-8)


# --- torch.compile ------------------------------------------------------------------------------------------


@pytest.fixture
def count() -> Iterator[Any]:
    """A compiler that counts how often it is asked; fullgraph=True makes any break an error."""
    import torch._dynamo.testing

    torch._dynamo.reset()
    yield torch._dynamo.testing.CompileCounterWithBackend
    torch._dynamo.reset()


@pytest.fixture
def counter(count: Any) -> Any:
    return count("aot_eager")


def soft_or_labels(loss: Any, rows: int, seed: int = 0) -> tuple[Any, Any]:
    low, high = {"nll_loss": (-2.0, -0.1), "binary_cross_entropy": (0.1, 0.9)}.get(loss.__name__, (-2.0, 2.0))
    x = doubles(rows, 3, low=low, high=high, seed=seed)
    if loss in CATEGORICAL:
        return x, torch.randint(0, 3, (rows,), generator=torch.Generator().manual_seed(seed))
    if loss is kl_divergence_with_logits:
        return x, doubles(rows, 3, seed=seed + 1)
    return x, (x > x.mean()).long()


@pytest.mark.parametrize("loss", [*CATEGORICAL, *BINARY, kl_divergence_with_logits], ids=names)
def test_compiles_whole_and_once(count: Any, loss: Any) -> None:
    """One graph for every batch size, and none again for the same one."""
    # Dynamo traces forward and backward, and counts. The next stage takes three times as long and sees the operations
    # of one loss after another: here of one; test_inductor has two more, all the way; a full conformance run has each.
    counter = count("aot_eager" if loss is kl_divergence_with_logits else "eager")
    compiled = torch.compile(loss, fullgraph=True, backend=counter, dynamic=True)
    # Not 1: dynamo starts the first call over where a Python float among the arguments became symbolic.
    first = 0
    for rows, seed in ((6, 0), (6, 1), (33, 0)):
        x, y = soft_or_labels(loss, rows, seed)
        out, eager = compiled(x, y), loss(x, y)
        inputs = (x, y) if y.requires_grad else x
        torch.testing.assert_close(out, eager, rtol=1e-12, atol=1e-14)
        for got, due in zip(torch.autograd.grad(out, inputs), torch.autograd.grad(eager, inputs), strict=True):
            torch.testing.assert_close(got, due, rtol=1e-12, atol=1e-14)
        first = first or counter.frame_count
    assert counter.frame_count == first, "compiled again"


def test_marked_dynamic(counter: Any) -> None:
    """mark_dynamic is an error if anything specializes on the size."""
    compiled = torch.compile(cross_entropy, fullgraph=True, backend=counter)
    first = 0
    for rows in (6, 10):
        x, y = soft_or_labels(cross_entropy, rows)
        torch._dynamo.mark_dynamic(x, 0)
        torch._dynamo.mark_dynamic(y, 0)
        torch.testing.assert_close(compiled(x, y), cross_entropy(x, y))
        first = first or counter.frame_count
    assert counter.frame_count == first, "compiled again for another batch size"


def test_options_beside_a_size_that_is_marked_dynamic(counter: Any) -> None:
    """What is broadcast along it is not marked, what has it is; neither fixes it."""

    def f(x: Any, t: Any, each: Any, one: Any, of_classes: Any) -> Any:
        bits, column = (x > 0).double(), each[:, None]
        return cross_entropy(
            x, t, where=each > 0.2, sample_weight=one, class_weight=of_classes
        ) + binary_cross_entropy_with_logits(x, bits, where=one > 0, sample_weight=column, pos_weight=of_classes)

    compiled = torch.compile(f, fullgraph=True, backend=counter)
    one, of_classes = torch.tensor([2.0]), torch.tensor([0.5, 1.0, 2.0]).double()
    first = 0
    for rows in (6, 10):
        x, t = soft_or_labels(cross_entropy, rows)
        marked = x, t, torch.linspace(0.1, 1, rows).double()
        for a in marked:
            torch._dynamo.mark_dynamic(a, 0)
        torch.testing.assert_close(compiled(*marked, one, of_classes), f(*marked, one, of_classes))
        first = first or counter.frame_count
    assert counter.frame_count == first, "compiled again for another batch size"


def test_compiled_options(counter: Any) -> None:
    """Everything at once, differentiated by all of it."""

    def f(x: Any, t: Any, w: Any, c: Any, where: Any) -> Any:
        return cross_entropy(
            x,
            t,
            sample_weight=w,
            class_weight=c,
            where=where,
            label_smoothing=0.1,
            axis=1,
            reduction=Mean(over="valid", axis=1),
        ).sum()

    x, w = doubles(4, 3, 2), doubles(4, 2, low=0.5)
    t, c = doubles(4, 3, 2, seed=5).detach().softmax(1).requires_grad_(), doubles(3, low=0.5)
    where = torch.tensor([[True, False], [True, True], [False, True], [True, True]])
    inputs = (x, t, w, c)
    got = torch.autograd.grad(torch.compile(f, fullgraph=True, backend=counter)(*inputs, where), inputs)
    expected = torch.autograd.grad(f(*inputs, where), inputs)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
        assert a.abs().max() > 0


def test_compiled_numbers(counter: Any) -> None:
    """Numbers that change from call to call, which become symbolic at the second."""

    def f(x: Any, t: Any, n: float) -> Any:
        focal = sigmoid_focal_loss(x, (x > 0).double(), alpha=n, pos_weight=n, gamma=n, label_smoothing=n)
        return focal + cross_entropy(x, t, label_smoothing=n, z_loss=n, temperature=n)

    compiled = torch.compile(f, fullgraph=True, backend=counter)
    x, t = soft_or_labels(cross_entropy, 6)
    for n in (0.25, 0.5, 0.75):
        torch.testing.assert_close(compiled(x, t, n), f(x, t, n))


def test_compiled_value_and_grad(counter: Any) -> None:
    x, y = soft_or_labels(cross_entropy, 6)
    f = torch.compile(value_and_grad(cross_entropy), fullgraph=True, backend=counter)
    for a, b in zip(f(x.detach(), y), value_and_grad(cross_entropy)(x.detach(), y), strict=True):
        torch.testing.assert_close(a, b)


def test_compiled_hardest(counter: Any) -> None:
    x, y = soft_or_labels(cross_entropy, 6)

    def f(x: Any, y: Any) -> Any:
        return cross_entropy(x, y, reduction=Hardest(fraction=0.5, threshold=1.0))

    out = torch.compile(f, fullgraph=True, backend=counter)(x, y)
    torch.testing.assert_close(out, f(x, y))
    torch.testing.assert_close(torch.autograd.grad(out, x)[0], torch.autograd.grad(f(x, y), x)[0])


@pytest.mark.parametrize("loss", [cross_entropy, sigmoid_focal_loss], ids=names)
def test_inductor(loss: Any, needing_a_compiler: Any) -> None:
    """The compiler that users get, with generated code, once for all shapes; its digits are conformance's to judge."""
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, dynamic=True)

    def both(x: Any, y: Any, factor: float = 1.0) -> tuple[Any, Any]:
        with needing_a_compiler():
            out = compiled(x, y)
            return out.detach(), torch.autograd.grad(factor * out, x)[0]

    x, y = soft_or_labels(loss, 6)
    value, gradient = both(x.detach().float().requires_grad_(), y)
    due = value_and_grad(loss)(x.detach(), y)
    # Against float64: some units of float32 (6e-8), and of a logit as far as 4 from the row's maximum.
    torch.testing.assert_close(value.double(), due[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), due[1], rtol=1e-5, atol=1e-8)
    if loss is sigmoid_focal_loss:
        return
    for classes in (300, 32000):
        # One C++ sum of equal terms after another lost 180 units in the last place.
        _, gradient = both(torch.full((2, classes), 0.3, requires_grad=True), torch.tensor([0, 1]))
        assert abs(float(gradient[0, 2]) * 2 * classes - 1) <= 4 * torch.finfo(torch.float32).eps
    # Of what the forward kept, the smallest normal numbers, a large cotangent makes ordinary ones.
    x = torch.tensor([[87.0, 0.0, 0.0]] * 2, requires_grad=True)
    _, gradient = both(x, torch.tensor([0, 0]), 65536.0)
    p = 32768 * math.exp(-87)
    # Section 4's k is the distance, 87 units of 6e-8.
    torch.testing.assert_close(gradient, torch.tensor([[-2 * p, p, p]] * 2), rtol=1e-5, atol=0)


# --- as a user of torch calls it ----------------------------------------------------------------------------


def test_it_is_called_as_torchs_own() -> None:
    x, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    assert cross_entropy(x, y[:0].new_full((5,), -100)).isnan()
    assert cross_entropy(x.half(), y).dtype == torch.float16
    parameter = torch.nn.Parameter(x)
    cross_entropy(parameter, y).backward()
    assert parameter.grad is not None
    per_sample = torch.func.vmap(lambda a, b: cross_entropy(a[None], b[None]))(x, y)
    torch.testing.assert_close(per_sample, cross_entropy(x, y, reduction="none"))
    with pytest.raises(ValueError, match="shape"):
        cross_entropy(x, y[:4])


# --- against the reference ----------------------------------------------------------------------------------


def test_every_gradient_against_the_reference() -> None:
    """gradcheck compares with differences of the package's own values; this compares with the textbook's."""
    x, t, w, c = doubles(3, 4), probabilities(3, 4), doubles(3, low=0.5), doubles(4, low=0.5)
    inputs = [a.detach().numpy() for a in (x, t, w, c)]

    def exact(position: int) -> np.ndarray:
        def scalar(at: Any) -> Any:
            a, b, weight, classes = (at if i == position else v for i, v in enumerate(inputs))
            return reference.mean(reference.categorical(a, b, sample_weight=weight, class_weight=classes))

        return reference.difference(scalar, inputs[position])

    got = torch.autograd.grad(cross_entropy(x, t, sample_weight=w, class_weight=c), (x, t, w, c))
    for i, a in enumerate(got):
        np.testing.assert_allclose(a.numpy(), exact(i), rtol=1e-11, atol=1e-14)
