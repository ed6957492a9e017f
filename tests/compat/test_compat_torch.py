"""arrayloss.compat.torch against torch.nn.functional."""

# ruff: noqa: B023, E731  the closures are called at once

import itertools
import warnings
from typing import Any

import numpy as np
import pytest

from arrayloss import value_and_grad
from arrayloss.compat import torch as preset

pytest.importorskip("torch", reason="the original, torch, is not installed")
import torch
import torch.nn.functional as F

REDUCTIONS = ["none", "mean", "sum"]
RNG = np.random.default_rng(0)
WEIGHT = np.asarray([0.5, 2.0, 1.5])


def tensor(x: Any) -> Any:
    return torch.tensor(x) if isinstance(x, np.ndarray) else x


def logits(shape: tuple[int, ...], kind: str) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal(shape)
    return {"random": 3 * x, "extreme": 1e4 * x, "tiny": 1e-8 * x, "ties": np.round(x)}[kind]


KINDS = ["random", "extreme", "tiny", "ties"]


SHAPES = [(4, 3), (3,), (2, 3, 2, 2)]


def labels(shape: tuple[int, ...]) -> np.ndarray:
    samples = shape[:0] if len(shape) == 1 else (shape[0], *shape[2:])
    return np.asarray(np.random.default_rng(2).integers(0, 3, samples))


def soft(shape: tuple[int, ...]) -> np.ndarray:
    axis = 0 if len(shape) == 1 else 1
    q = np.random.default_rng(3).random(shape)
    return q / q.sum(axis, keepdims=True)


@pytest.mark.parametrize(
    "name",
    [
        *("softmax", "log_softmax", "nll_loss", "cross_entropy", "linear_cross_entropy"),
        *("binary_cross_entropy", "binary_cross_entropy_with_logits"),
        *("kl_div", "soft_margin_loss", "multilabel_soft_margin_loss"),
    ],
)
def test_signature(name: str, same_signature: Any) -> None:
    same_signature(getattr(preset, name), getattr(F, name))


@pytest.mark.only(lambda name, target: name != "nll_loss" or target != "probabilities")  # torch's takes labels only
@pytest.mark.parametrize("target", ["labels", "ignored", "probabilities"])
@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_categorical(lib: Any, originals: Any, name: str, target: str) -> None:
    ours, original = getattr(preset, name), getattr(F, name)
    for shape, kind in itertools.product(lib.few(SHAPES), lib.few(KINDS)):
        x = logits(shape, kind)
        if name == "nll_loss":
            x = F.log_softmax(torch.tensor(x), 0 if x.ndim == 1 else 1).numpy()
        t = soft(shape) if target == "probabilities" else labels(shape)
        ignore = {"ignore_index": int(t.ravel()[0])} if target == "ignored" and t.size > 1 else {}
        smoothings = [{}] if name == "nll_loss" else [{"label_smoothing": 0.1}, {}, {"label_smoothing": 1.0}]
        for weight, reduction, smoothing in itertools.product(
            lib.few([WEIGHT, None]), lib.few(["mean", "none", "sum"]), lib.few(smoothings)
        ):
            options = {"reduction": reduction, **smoothing, **ignore}
            expected = originals["torch"](lambda x: original(x, tensor(t), tensor(weight), **options), x)
            call = lambda x, t, w: ours(x, t, w, **options)
            lib.agree(
                call,
                x,
                (t, weight),
                expected,
                of=f"torch.{name}",
                options=["weight", *options],
                note=(shape, kind, options),
            )


@pytest.mark.parametrize("target", ["labels", "probabilities"])
def test_linear(lib: Any, originals: Any, target: str) -> None:
    linear = logits((3, 5), "random")
    for shape, reduction in itertools.product(lib.few([(4, 5), (5,)]), lib.few(["mean", "none", "sum"])):
        x = logits(shape, "random")
        t = soft((*shape[:-1], 3)) if target == "probabilities" else labels((*shape[:-1], 3))
        options = {"reduction": reduction, "label_smoothing": 0.1}
        expected = originals["torch"](
            lambda x: F.linear_cross_entropy(x, tensor(linear), tensor(t), weight=tensor(WEIGHT), **options), x
        )
        call = lambda x, linear, t, w: preset.linear_cross_entropy(x, linear, t, weight=w, **options)
        lib.agree(call, x, (linear, t, WEIGHT), expected, of="torch.linear_cross_entropy", note=(shape, options))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_all_ignored_and_empty(lib: Any, originals: Any, name: str, reduction: str) -> None:
    ours, original = getattr(preset, name), getattr(F, name)
    for x, t in [(logits((4, 3), "random"), np.full(4, -100)), (np.zeros((0, 3)), np.zeros(0, np.int64))]:
        expected = originals["torch"](lambda x: original(x, tensor(t), reduction=reduction), x)[0]
        value, gradient = lib.run(lambda x, t: ours(x, t, reduction=reduction), x, t)
        np.testing.assert_array_equal(value, expected)
        # torch's own gradient of the mean of none is nan.
        assert gradient is None or not gradient.any()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_legacy_reduction(reduction: str) -> None:
    x, t = logits((4, 3), "random"), labels((4, 3))
    for size_average, reduce in itertools.product([None, True, False], repeat=2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that these are deprecated
            expected = F.cross_entropy(tensor(x), tensor(t), None, size_average, -100, reduce, reduction)
        got = preset.cross_entropy(x, t, None, size_average, -100, reduce, reduction)
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-14)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_activations(lib: Any, originals: Any, name: str) -> None:
    ours, original = getattr(preset, name), getattr(F, name)
    for shape, kind in itertools.product(lib.few(SHAPES), lib.few(KINDS)):
        x = logits(shape, kind)
        for dim in lib.few([*range(-len(shape), len(shape)), None]):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the implicit choice of dim
                expected = originals["torch"](lambda x: original(x, dim), x)
            lib.agree(
                lambda x: ours(x, dim), x, (), expected, of=f"torch.{name}", options=["dim"], note=(shape, kind, dim)
            )


def test_activations_cast_first() -> None:
    x = logits((4, 3), "random").astype(np.float32)
    for name in ("softmax", "log_softmax"):
        expected = getattr(F, name)(tensor(x), 1, dtype=torch.float64)
        got = getattr(preset, name)(tensor(x), 1, dtype=torch.float64)
        assert got.dtype == torch.float64
        np.testing.assert_allclose(got, expected, rtol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_logsigmoid(lib: Any, originals: Any, kind: str) -> None:
    x = logits((4, 3), kind)
    lib.agree(preset.logsigmoid, x, (), originals["torch"](F.logsigmoid, x), of="torch.logsigmoid")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("hard", [True, False])
def test_binary_with_logits(lib: Any, originals: Any, reduction: str, hard: bool) -> None:
    y = np.random.default_rng(4).random((4, 3))
    y = np.round(y) if hard else y
    weights = [WEIGHT, None, np.random.default_rng(5).random((4, 3)), np.zeros((4, 3))]
    for kind, weight, pos_weight in itertools.product(
        lib.few(KINDS), lib.few(weights), lib.few([WEIGHT, None, np.asarray(3.0)])
    ):
        x = logits((4, 3), kind)
        original, ours = F.binary_cross_entropy_with_logits, preset.binary_cross_entropy_with_logits
        expected = originals["torch"](
            lambda x: original(
                x,
                tensor(y),
                tensor(weight),
                reduction=reduction,
                pos_weight=tensor(pos_weight),
            ),
            x,
        )
        call = lambda x, y, w, p: ours(x, y, w, reduction=reduction, pos_weight=p)
        note = (kind, weight, pos_weight)
        options = ["weight", "pos_weight", "reduction"]
        lib.agree(call, x, (y, weight, pos_weight), expected, of=f"torch.{ours.__name__}", options=options, note=note)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_binary_of_probabilities(lib: Any, originals: Any, reduction: str) -> None:
    p = np.asarray([[0.2, 0.9, 0.5], [1e-300, 1e-13, 1 - 1e-13], [0.0, 1.0, 1e-44], [1.0, 0.0, 1 - 1e-16]])
    for y, weight in itertools.product(
        lib.few([np.eye(4, 3), np.ones((4, 3)), np.zeros((4, 3)), np.full((4, 3), 0.25)]), lib.few([WEIGHT, None])
    ):
        expected = originals["torch"](
            lambda p: F.binary_cross_entropy(p, tensor(y), tensor(weight), reduction=reduction),
            p,
        )
        call = lambda p, y, w: preset.binary_cross_entropy(p, y, w, reduction=reduction)
        lib.agree(call, p, (y, weight), expected, of="torch.binary_cross_entropy", options=["weight", "reduction"])


def test_value_and_grad_on_numpy(originals: Any) -> None:
    x, t, y = logits((4, 3), "random"), labels((4, 3)), np.random.default_rng(4).random((4, 3))
    p = np.asarray([[0.0, 1.0, 0.3], [1e-300, 0.5, 1e-20], [0.9, 0.1, 1.0], [0.2, 0.3, 1e-13]])
    for ours, original, at, target, options in [
        (preset.cross_entropy, F.cross_entropy, x, t, {"weight": WEIGHT, "label_smoothing": 0.1}),
        (preset.cross_entropy, F.cross_entropy, x, soft((4, 3)), {"weight": WEIGHT}),
        (preset.nll_loss, F.nll_loss, x, t, {"weight": WEIGHT}),
        (preset.binary_cross_entropy, F.binary_cross_entropy, p, y, {"weight": WEIGHT}),
        (preset.binary_cross_entropy_with_logits,) * 1
        + (F.binary_cross_entropy_with_logits, x, y, {"weight": WEIGHT, "pos_weight": WEIGHT}),
    ]:
        given = {k: tensor(v) for k, v in options.items()}
        expected = originals["torch"](lambda x: original(x, tensor(target), **given), at)
        value, gradient = value_and_grad(ours)(at, target, **options)
        np.testing.assert_allclose(value, expected[0], rtol=1e-13)
        np.testing.assert_allclose(gradient, expected[1], rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy"])
def test_under_compilers(name: str) -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    x = np.asarray([[0.2, 0.9, 0.5], [0.0, 1.0, 0.25]], np.float32)
    t = np.asarray([0, 2]) if name == "cross_entropy" else np.asarray([[0.0, 1, 1], [1, 0, 0.5]], np.float32)
    expected = getattr(F, name)(tensor(x), tensor(t)).numpy()
    np.testing.assert_allclose(jax.jit(getattr(preset, name))(x, jax.numpy.asarray(t)), expected, rtol=1e-6)
    compiled = torch.compile(getattr(preset, name), fullgraph=True, backend="aot_eager")
    np.testing.assert_allclose(compiled(tensor(x), tensor(t)), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 3), (3,), (2, 3, 2, 2), ()], ids=str)
@pytest.mark.parametrize("name", ["kl_div", "soft_margin_loss", "multilabel_soft_margin_loss"])
def test_divergences_and_margins(name: str, shape: tuple[int, ...]) -> None:
    """On NumPy, every reduction and option; tests of gradients have the other libraries."""
    ours, original, rng = getattr(preset, name), getattr(F, name), np.random.default_rng(4)
    x, t = np.asarray(-np.abs(rng.standard_normal(shape))), np.asarray(rng.random(shape))
    variants: list[dict[str, Any]] = [{}]
    if name == "kl_div":
        variants = [{}, {"log_target": True}, {"reduction": "batchmean"}]
    elif name == "soft_margin_loss":
        t = np.where(t < 0.5, -1.0, 1.0)
    elif shape:
        variants = [{}, {"weight": rng.random(shape[-1])}]
    else:
        return  # torch takes no single number there
    for reduction, variant in itertools.product([None, *REDUCTIONS], variants):
        options: dict[str, Any] = variant if reduction is None else {**variant, "reduction": reduction}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's of "mean"
            expected = original(tensor(x), tensor(t), **{k: tensor(v) for k, v in options.items()}).numpy()
        got = ours(x, t, **options)
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-14, atol=1e-15, err_msg=f"{options}")
