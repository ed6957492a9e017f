"""What is done with torch's own losses every day: forward mode, batched gradients, tracing, exporting, autocast."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import arrayloss as al
from arrayloss import value_and_grad
from outside.common import ACTIVATIONS, BINARY, CATEGORICAL, LOSSES, arguments, close, over_losses

torch = pytest.importorskip("torch")


def cost(loss: Any, p: Any, log_p: Any) -> Any:
    if loss in (al.softmax_focal_loss, al.sigmoid_focal_loss):
        return (1 - p) ** 2 * -log_p
    return -log_p + 2 * (1 - p) if loss is al.poly_loss else -log_p


def textbook(loss: Any, x: Any, t: Any) -> Any:
    """The losses of the samples in plain operations, for torch to differentiate."""
    if loss is al.kl_divergence_with_logits:
        return (t.softmax(-1) * (t.log_softmax(-1) - x.log_softmax(-1))).sum(-1)
    if loss in CATEGORICAL:
        t = t if t.is_floating_point() else torch.nn.functional.one_hot(t, x.shape[-1]).to(x.dtype)
        log_p = x if loss is al.nll_loss else x.log_softmax(-1)
        return (t * cost(loss, log_p.exp(), log_p)).sum(-1)
    p = x if loss is al.binary_cross_entropy else x.sigmoid()
    if loss is al.asymmetric_loss:
        shifted = (p - 0.05).clamp(min=0)
        return -t * (1 - p) * p.log() - (1 - t) * shifted**4 * (1 - shifted).log()
    return t * cost(loss, p, p.log()) + (1 - t) * cost(loss, 1 - p, (1 - p).log())


def tensors(loss: Any, soft: bool = True, shape: tuple[int, int] = (4, 3), seed: int = 1) -> tuple[Any, Any]:
    x, t = arguments(loss, soft, shape, seed)
    return torch.tensor(x), torch.tensor(t)


# --- forward mode -------------------------------------------------------------------------------------------


@over_losses
def test_jacfwd(loss: Any) -> None:
    x, t = tensors(loss)
    close(torch.func.jacfwd(loss)(x, t), torch.func.grad(lambda x: textbook(loss, x, t).mean())(x), 1e-10)
    got = torch.func.jacfwd(lambda t: loss(x, t, reduction="none"))(t)
    close(got, torch.func.jacrev(lambda t: textbook(loss, x, t))(t), 1e-10)


@over_losses
@pytest.mark.only(lambda loss: loss is not al.kl_divergence_with_logits)  # which has no labels
def test_jacfwd_of_labels(loss: Any) -> None:
    x, t = tensors(loss, soft=False)
    got = torch.func.jacfwd(lambda x: loss(x, t, reduction="none"))(x)
    close(got, torch.func.jacrev(lambda x: textbook(loss, x, t))(x), 1e-10)


@over_losses
def test_hessian(loss: Any) -> None:
    for soft in (True, False):
        x, t = tensors(loss, soft)
        expected = torch.func.hessian(lambda x, t=t: textbook(loss, x, t).mean())(x)
        close(torch.func.hessian(loss)(x, t), expected, 1e-9)
        close(torch.func.jacrev(torch.func.jacfwd(loss))(x, t), expected, 1e-9)
        close(torch.func.jacfwd(torch.func.jacfwd(loss))(x, t), expected, 1e-9)


@over_losses
def test_the_second_derivative_by_logits_and_target(loss: Any) -> None:
    x, t = tensors(loss)
    # Of the sum: what a mean is divided by depends on the target too.
    (_, mixed), _ = torch.func.hessian(lambda x, t: loss(x, t, reduction="sum"), argnums=(0, 1))(x, t)
    (_, expected), _ = torch.func.hessian(lambda x, t: textbook(loss, x, t).sum(), argnums=(0, 1))(x, t)
    close(mixed, expected, 1e-9)


@over_losses
def test_dual_numbers(loss: Any) -> None:
    from torch.autograd import forward_ad

    x, t = tensors(loss)
    tangents = [torch.linspace(-1, 1, a.numel(), dtype=a.dtype).reshape(a.shape) for a in (x, t)]
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(a, b) for a, b in zip((x, t), tangents, strict=True)]
        primal, tangent = forward_ad.unpack_dual(loss(*duals))
    gradients = torch.func.grad(lambda x, t: textbook(loss, x, t).mean(), argnums=(0, 1))(x, t)
    close(primal, textbook(loss, x, t).mean(), 1e-10)
    close(tangent, sum((g * v).sum() for g, v in zip(gradients, tangents, strict=True)), 1e-10)


def test_forward_mode_by_weights() -> None:
    x, labels = tensors(al.cross_entropy, soft=False)
    _, bits = tensors(al.sigmoid_focal_loss)
    each, per_class = torch.tensor([1.0, 2.0, 0.5, 1.5]).double(), torch.tensor([1.0, 2.0, 0.5]).double()
    share = torch.tensor(0.25).double()
    for f, at in (
        (lambda w: al.cross_entropy(x, labels, sample_weight=w), each),
        (lambda w: al.cross_entropy(x, labels, class_weight=w), per_class),
        (lambda w: al.softmax_focal_loss(x, labels, alpha=w), per_class / 2),
        (lambda w: al.sigmoid_focal_loss(x, bits, alpha=w), share),
        (lambda w: al.binary_cross_entropy_with_logits(x, bits, pos_weight=w), per_class),
    ):
        leaf = at.clone().requires_grad_()
        (expected,) = torch.autograd.grad(f(leaf), leaf)
        close(torch.func.jacfwd(f)(at), expected, 1e-10)


def at_zero(loss: Any) -> list[tuple[Any, Any]]:
    """Functions to the losses of the samples, of an array with zeros: one-hot or 0 and 1, and weights of each kind."""
    x, t = tensors(loss, soft=loss is al.kl_divergence_with_logits)
    each = functools.partial(loss, x, reduction="none")
    hot = torch.nn.functional.one_hot(t, 3) if loss in CATEGORICAL else t
    weight = torch.tensor([0.0, 1.0, 2.0, 0.0], dtype=x.dtype)
    cases = [(each, hot.to(x.dtype))] if loss is not al.kl_divergence_with_logits else []
    options = ["class_weight"] if loss in CATEGORICAL else ["pos_weight"] if loss in BINARY[1:] else []
    cases += [(lambda w, option=option: each(t, **{option: w}), weight[:3]) for option in options]
    weight = weight[:, None] if loss in BINARY else weight
    return [*cases, (lambda w: each(t, sample_weight=w), weight)]


@over_losses
def test_forward_mode_where_a_weight_is_zero(loss: Any) -> None:
    """The slope by a target or weight of 0 is the loss, and not 0."""
    for f, at in at_zero(loss):
        due = torch.autograd.functional.jacobian(f, at)
        assert due[..., at == 0].abs().sum() > 0
        close(torch.func.jacfwd(f)(at), due, 1e-12)


@over_losses
def test_the_slope_of_a_gradient_by_a_weight_of_zero(loss: Any) -> None:
    """What learns to weigh examples starts from weights of 0, and differentiates the gradient by them."""
    for soft in (False, True):
        x, t = tensors(loss, soft or loss is al.kl_divergence_with_logits)
        leaf, weight = x.requires_grad_(), torch.zeros(4, dtype=x.dtype, requires_grad=True)
        shape = (4, 1) if loss in BINARY else (4,)
        total = loss(leaf, t, sample_weight=weight.reshape(shape), reduction="sum")
        (gradient,) = torch.autograd.grad(total, leaf, create_graph=True)
        assert not gradient.any()
        along = torch.linspace(1, 2, x.numel(), dtype=x.dtype).reshape(x.shape)
        (got,) = torch.autograd.grad((gradient * along).sum(), weight)
        (each,) = torch.autograd.grad(loss(leaf, t, reduction="sum"), leaf)
        close(got, (each * along).sum(-1), 1e-12)


@pytest.mark.parametrize("function", ACTIVATIONS, ids=lambda f: f.__name__)
def test_forward_mode_of_functions(function: Any) -> None:
    x = torch.tensor(np.random.default_rng(0).normal(size=(2, 3)))
    plain = {
        "softmax": lambda x: x.softmax(-1),
        "log_softmax": lambda x: x.log_softmax(-1),
        "logsumexp": lambda x: x.logsumexp(-1),
        "sigmoid": torch.sigmoid,
        "log_sigmoid": torch.nn.functional.logsigmoid,
    }[function.__name__]
    close(torch.func.jacfwd(function)(x), torch.func.jacrev(plain)(x), 1e-10)
    got = torch.func.hessian(lambda x: function(x).square().sum())(x)
    close(got, torch.func.hessian(lambda x: plain(x).square().sum())(x), 1e-9)


def test_forward_mode_at_special_values() -> None:
    """A zero tangent stays one: 0 * inf is 0."""
    from torch.autograd import forward_ad

    inf = float("inf")
    x, t = torch.tensor([[-inf, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    for loss in (al.cross_entropy, al.softmax_focal_loss, al.poly_loss):
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(a, torch.zeros_like(a)) for a in (x, t)]
            primal, tangent = forward_ad.unpack_dual(loss(*duals))
        assert torch.isfinite(primal), loss.__name__
        assert tangent is None or tangent == 0, loss.__name__


# --- batched gradients --------------------------------------------------------------------------------------


@over_losses
def test_several_cotangents_at_once(loss: Any) -> None:
    for soft in (True, False):
        x, t = tensors(loss, soft)
        leaf = x.clone().requires_grad_()
        value = loss(leaf, t)
        (got,) = torch.autograd.grad(value, leaf, torch.tensor([1.0, 2.0]).double(), is_grads_batched=True)
        expected = torch.func.grad(lambda x, t=t: textbook(loss, x, t).mean())(x)
        close(got, torch.stack([expected, 2 * expected]), 1e-10)


@over_losses
def test_jacobian_vectorized(loss: Any) -> None:
    x, t = tensors(loss)
    for strategy in ("reverse-mode", "forward-mode"):
        got = torch.autograd.functional.jacobian(
            lambda x, t: loss(x, t, reduction="none"), (x, t), vectorize=True, strategy=strategy
        )
        expected = torch.autograd.functional.jacobian(lambda x, t: textbook(loss, x, t), (x, t))
        for one, due in zip(got, expected, strict=True):
            close(one, due, 1e-10, strategy)


@over_losses
def test_gradcheck(loss: Any) -> None:
    for soft in (True, False):
        x, t = tensors(loss, soft, (2, 3))
        inputs = (x.requires_grad_(), t.requires_grad_() if t.is_floating_point() else t)
        assert torch.autograd.gradcheck(loss, inputs, check_batched_grad=True, check_forward_ad=True)


def test_gradients_of_each_sample() -> None:
    """torch.func.vmap over grad, as per-sample clipping has it."""
    x, t = tensors(al.softmax_focal_loss, soft=False)
    got = torch.func.vmap(torch.func.grad(al.softmax_focal_loss))(x, t)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(textbook(al.softmax_focal_loss, leaf, t).sum(), leaf)
    close(got, expected, 1e-10)


# --- tracing and exporting ----------------------------------------------------------------------------------

STEEP = {
    True: np.array([[200.0, 0.0, 0.0], [0.0, -300.0, 88.0], [-1000.0, 0.5, 1000.0], [0.0, 0.0, 0.0]]),
    False: np.array([[0.5, 0.25, 0.125], [0.5, 0.75, 0.25], [1e-30, 0.5, 1 - 2.0**-20], [0.5, 0.5, 0.5]]),
}


def steep(loss: Any) -> Any:
    """Numbers far from those that a program was traced with."""
    if loss is al.nll_loss:
        return torch.tensor(-np.abs(STEEP[True]), dtype=torch.float32)
    return torch.tensor(STEEP[loss is not al.binary_cross_entropy], dtype=torch.float32)


def small(loss: Any, soft: bool) -> tuple[Any, Any]:
    x, t = tensors(loss, soft)
    return x.float(), t.float() if t.is_floating_point() else t


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@over_losses
def test_a_trace_serves_other_numbers(loss: Any) -> None:
    for soft in (True, False):
        x, t = small(loss, soft)
        traced = torch.jit.trace(lambda x, t: loss(x, t, reduction="none"), (x, t))
        far = steep(loss)
        close(traced(far, t), loss(far, t, reduction="none"), 1e-6)
        close(traced(x, t), loss(x, t, reduction="none"), 1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_trace_counts_the_hardest_of_another_batch() -> None:
    """Half of eight in the trace, half of twenty later."""
    hardest = al.Hardest(fraction=0.5)
    x, t = torch.linspace(-2, 3, 8 * 3).sin().reshape(8, 3), torch.linspace(0, 9, 8 * 3).cos().reshape(8, 3)
    more, teacher = (torch.cat([a, a * 2, a[:4]]) for a in (x, t))
    traced = torch.jit.trace(lambda x, t: al.kl_divergence_with_logits(x, t, reduction=hardest), (x, t))
    value, gradient = value_and_grad(al.kl_divergence_with_logits)(more, teacher, reduction=hardest)
    close(traced(more, teacher), value, 1e-6)
    leaf = more.clone().requires_grad_()
    close(torch.autograd.grad(traced(leaf, teacher), leaf)[0], gradient, 1e-6)


@over_losses
def test_make_fx_serves_other_numbers(loss: Any) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    x, t = small(loss, soft=loss is al.kl_divergence_with_logits)
    for mode in ("real", "fake"):
        graph = make_fx(functools.partial(loss, reduction="none"), tracing_mode=mode)(x, t)
        far = steep(loss)
        close(graph(far, t), loss(far, t, reduction="none"), 1e-6, mode)
    graph = make_fx(torch.func.grad(loss))(x, t)
    close(graph(far, t), value_and_grad(loss)(far, t)[1], 1e-6)


@over_losses
def test_fake_tensors(loss: Any) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    x, t = small(loss, soft=loss is al.kl_divergence_with_logits)
    each = loss(x, t, reduction="none").shape
    with FakeTensorMode() as mode:
        fake_x, fake_t = mode.from_tensor(x).requires_grad_(), mode.from_tensor(t)
        value = loss(fake_x, fake_t)
        value.backward()
        assert value.shape == ()
        assert value.dtype == torch.float32
        assert fake_x.grad is not None
        assert fake_x.grad.shape == x.shape
        assert [a.shape for a in value_and_grad(loss)(fake_x.detach(), fake_t)] == [(), x.shape]
        assert loss(fake_x, fake_t, reduction="none").shape == each


@pytest.mark.parametrize("family", ["binary", "categorical"])
def test_export_with_a_dynamic_batch(family: str) -> None:
    losses = BINARY if family == "binary" else [*CATEGORICAL, al.kl_divergence_with_logits]

    class All(torch.nn.Module):
        def forward(self, p: Any, t: Any, soft: Any) -> Any:
            """Probabilities serve as log-probabilities and as logits too."""
            found = []
            for loss in losses:
                x = -p if loss is al.nll_loss else p
                found.append(loss(x, soft if loss is al.kl_divergence_with_logits else t))
                found.append(loss(x, soft, reduction="none").sum())
            return torch.stack(found)

    def inputs(rows: int) -> tuple[Any, ...]:
        rng = np.random.default_rng(rows)
        labels = rng.integers(2, size=(rows, 3) if family == "binary" else rows)
        p, soft = rng.random((rows, 3)), rng.dirichlet(np.ones(3), size=rows)
        return torch.tensor(p).float(), torch.tensor(labels), torch.tensor(soft).float()

    batch = torch.export.Dim("batch", min=2, max=64)
    shapes = ({0: batch}, {0: batch}, {0: batch})
    program = torch.export.export(All(), inputs(4), dynamic_shapes=shapes)
    for rows in (4, 7):
        close(program.module()(*inputs(rows)), All()(*inputs(rows)), 1e-6)


# --- devices that are not there -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["context", "default"])
def test_a_default_device_is_for_what_the_caller_makes(how: str) -> None:
    """Small tensors and large ones, which are cut into blocks."""
    for loss in (
        al.cross_entropy,
        al.softmax_focal_loss,
        al.binary_cross_entropy_with_logits,
        al.kl_divergence_with_logits,
    ):
        for shape in ((4, 3), (2000, 1000)):
            x, t = (torch.tensor(a, device="cpu") for a in arguments(loss, shape=shape))
            x = x.float()
            t = t.float() if t.is_floating_point() else t
            expected = value_and_grad(loss)(x, t)
            leaf = x.clone().requires_grad_()
            if how == "context":
                with torch.device("meta"):
                    got = value_and_grad(loss)(x, t)
                    loss(leaf, t).backward()
            else:
                torch.set_default_device("meta")
                try:
                    got = value_and_grad(loss)(x, t)
                    loss(leaf, t).backward()
                finally:
                    torch.set_default_device(None)
            for one, due in zip((*got, leaf.grad), (*expected, expected[1]), strict=True):
                assert one.device.type == "cpu"
                close(one, due, 1e-6, loss.__name__)


@over_losses
def test_a_default_dtype_is_for_what_the_caller_makes(loss: Any) -> None:
    x, t = small(loss, soft=False)
    expected = value_and_grad(loss)(x, t)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        got = value_and_grad(loss)(x, t)
    finally:
        torch.set_default_dtype(before)
    for one, due in zip(got, expected, strict=True):
        assert one.dtype == torch.float32
        close(one, due, 1e-6)


# --- autocast -----------------------------------------------------------------------------------------------

DEVICES = ["cpu", "cuda"]


def autocast(device: str, dtype: Any) -> Any:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    return torch.autocast(device, dtype)


@pytest.mark.parametrize("device", DEVICES)
@over_losses
def test_autocast_leaves_a_loss_in_float32(loss: Any, device: str) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        context = autocast(device, dtype)
        for soft in (True, False):
            x, t = tensors(loss, soft)
            x = x.to(device, dtype)
            t = t.to(device, torch.float32) if t.is_floating_point() else t.to(device)
            if loss is al.kl_divergence_with_logits:
                t = t.to(dtype)
            expected = loss(x.float(), t.float() if t.is_floating_point() else t)
            leaf = x.clone().requires_grad_()
            with context:
                value = loss(x, t)
                both = value_and_grad(loss)(x, t)
                tracked = loss(leaf, t)
                apart = loss(x, t, reduction="none")
                asked = loss(x, t, dtype=torch.float64)
            tracked.backward()
            assert [v.dtype for v in (value, both[0], tracked, apart)] == [torch.float32] * 4
            assert asked.dtype == torch.float64
            assert (both[1].dtype, leaf.grad.dtype) == (dtype, dtype)
            for one in (value, both[0], tracked):
                close(one.item(), expected.item(), 1e-5)
            close(leaf.grad.float(), both[1].float(), 2e-2)
            assert loss(x, t).dtype == dtype  # outside of it, of the dtype of the logits


def test_autocast_in_compat_and_nn() -> None:
    from arrayloss.compat import torch as F
    from arrayloss.nn import torch as nn

    x, p = torch.randn(4, 3).bfloat16(), torch.rand(4, 3)
    labels, bits = torch.tensor([0, 2, 1, 1]), torch.randint(2, (4, 3)).float()
    calls: list[Callable[[], Any]] = [
        lambda: F.cross_entropy(x, labels),
        lambda: F.nll_loss(x.log_softmax(1).bfloat16(), labels),
        lambda: F.binary_cross_entropy_with_logits(x, bits),
        lambda: nn.CrossEntropyLoss()(x, labels),
        lambda: nn.BCEWithLogitsLoss()(x, bits),
        lambda: nn.SoftmaxFocalLoss()(x, labels),
        lambda: nn.SigmoidFocalLoss()(x, bits),
    ]
    with torch.autocast("cpu", torch.bfloat16):
        assert [call().dtype for call in calls] == [torch.float32] * len(calls)
        assert F.binary_cross_entropy(p, bits).dtype == torch.float32


# --- modules ------------------------------------------------------------------------------------------------


def test_modules_take_reductions() -> None:
    from arrayloss.nn import torch as nn

    x, labels = torch.tensor(np.random.default_rng(0).normal(size=(4, 3))), torch.tensor([0, 2, -100, 1])
    each = al.cross_entropy(x, labels, reduction="none")
    bits = torch.tensor([[0.0, 1.0, 1.0]] * 4).double()
    for module in (nn.CrossEntropyLoss, functools.partial(nn.SoftmaxFocalLoss, gamma=0.0)):
        assert module(reduction=al.Mean(over="all"))(x, labels).item() == pytest.approx(each.sum().item() / 4)
        assert module(reduction=al.Hardest(k=1))(x, labels).item() == pytest.approx(each.max().item())
        assert module(reduction=al.Sum())(x, labels).item() == pytest.approx(each.sum().item())
    log_p = x.log_softmax(-1)
    assert nn.NLLLoss(reduction=al.Hardest(k=1))(log_p, labels).item() == pytest.approx(each.max().item())
    each = al.binary_cross_entropy_with_logits(x, bits, reduction="none")
    assert nn.BCEWithLogitsLoss(reduction=al.Hardest(k=1))(x, bits).item() == pytest.approx(each.max().item())
    assert nn.BCELoss(reduction=al.Hardest(k=1))(x.sigmoid(), bits).item() == pytest.approx(each.max().item())
    assert "Hardest" in repr(nn.CrossEntropyLoss(reduction=al.Hardest(k=1)))


# Of these, the same link and penalty, or the same kernel of two arrays, is in the list; test_linear.py has the first.
APART = {
    "linear_cross_entropy",
    *("generalized_cross_entropy", "symmetric_cross_entropy", "kl_divergence", "js_divergence"),
}


def test_the_losses_are_all_here() -> None:
    """The list above goes with the public face."""
    public = {getattr(al, name) for name in al.__all__ if hasattr(getattr(al, name), "__name__")}
    losses = {loss for loss in public if getattr(loss, "__name__", "").endswith(("_loss", "entropy", "_divergence"))}
    losses |= {al.binary_cross_entropy_with_logits}
    assert {loss.__name__ for loss in losses} - {loss.__name__ for loss in LOSSES} <= APART
