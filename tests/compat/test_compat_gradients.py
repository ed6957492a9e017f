"""value_and_grad of every preset, on every library, against the original's own autodiff."""

# ruff: noqa: B023, E731  the closures are called at once

import importlib
import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import arrayloss.compat
from arrayloss import Hardest, value_and_grad

RNG = np.random.default_rng(0)
X = 2 * RNG.standard_normal((5, 3))
CUBE = RNG.standard_normal((2, 3, 4))
LABELS = RNG.integers(0, 3, 5)
ONE_HOT = np.eye(3)[LABELS]
BITS = np.round(RNG.random((5, 3)))
SOFT_BITS = RNG.random((5, 3))
# Sums that are not 1, and every clip.
P = RNG.random((5, 3))
P[:2] = [[0, 1, 0.5], [1e-9, 1 - 1e-9, 1e-8]]
Q = RNG.random((2, 3, 4))
MASK = RNG.random((2, 3, 4)) < 0.7
MASK[:, :, 1] = True
WEIGHT = np.asarray([0.5, 2.0, 1.5])

P_INSIDE = np.clip(P, 1e-9, 0.99)  # at its upper clip itself, JAX has half a derivative
SHARES = ONE_HOT * 0.75 + np.roll(ONE_HOT, 1, axis=1) * 0.25  # with a 0 in each row
LOGS = np.log(np.exp(X) / np.exp(X).sum(1, keepdims=True))

# Of each preset's losses: the predictions, the target, options.
CASES: dict[str, dict[str, list[tuple[Any, Any, dict[str, Any]]]]] = {
    "keras": {
        "binary_crossentropy": [
            (X, BITS, {"from_logits": True, "label_smoothing": 0.1}),
            (P, SOFT_BITS, {"axis": 0}),
        ],
        "categorical_crossentropy": [(X, ONE_HOT, {"from_logits": True}), (P, ONE_HOT, {"label_smoothing": 0.1})],
        "sparse_categorical_crossentropy": [
            (X, LABELS, {"from_logits": True}),
            (P, LABELS, {}),
            (P, LABELS, {"ignore_class": 1}),
        ],
        "binary_focal_crossentropy": [
            (X, SOFT_BITS, {"from_logits": True, "gamma": 1.5}),
            (P, BITS, {"apply_class_balancing": True}),
            (P, SOFT_BITS, {"gamma": 0.0}),
        ],
        "categorical_focal_crossentropy": [
            (X, ONE_HOT, {"from_logits": True, "gamma": 1.5}),
            (P, ONE_HOT, {"alpha": [0.2, 0.5, 1.0]}),
        ],
        "kl_divergence": [(P_INSIDE, SHARES, {})],
        "categorical_generalized_cross_entropy": [(P, LABELS, {"q": 0.7}), (P, LABELS, {"q": 1.0})],
    },
    "optax": {
        "softmax_cross_entropy": [
            (X, ONE_HOT, {}),
            (CUBE, Q / Q.sum((2, 0), keepdims=True), {"axis": (2, 0)}),
            (CUBE, Q / Q.sum(), {"axis": None}),
            (CUBE, Q, {"where": MASK}),
            (CUBE, Q, {"where": MASK, "axis": (0, 1)}),
        ],
        "safe_softmax_cross_entropy": [(X, ONE_HOT, {})],
        "softmax_cross_entropy_with_integer_labels": [
            (X, LABELS, {}),
            (CUBE, RNG.integers(0, 8, 3), {"axis": (2, 0)}),
            (CUBE, np.ones((2, 3), np.int64), {"where": MASK}),
        ],
        "sigmoid_binary_cross_entropy": [(X, SOFT_BITS, {})],
        "sigmoid_focal_loss": [
            (X, BITS, {"alpha": 0.3}),
            (X, SOFT_BITS, {"gamma": 0.5}),
            (X, SOFT_BITS, {"gamma": 0.0, "alpha": 0.3}),
        ],
        "kl_divergence": [(LOGS, SHARES, {}), (CUBE, Q, {"where": MASK, "axis": (0, 2)})],
        "generalized_kl_divergence": [(CUBE, Q, {"where": MASK})],
        "kl_divergence_with_log_targets": [(LOGS, LOGS[::-1].copy(), {}), (CUBE, np.log(Q), {"where": MASK})],
        "poly_loss_cross_entropy": [(X, ONE_HOT, {}), (CUBE, Q, {"axis": (0, 2), "epsilon": -1.0})],
    },
    "torch": {
        "nll_loss": [(np.log(np.abs(X)), LABELS, {"weight": WEIGHT})],
        "cross_entropy": [(X, LABELS, {"weight": WEIGHT, "label_smoothing": 0.1}), (X, ONE_HOT, {"weight": WEIGHT})],
        "binary_cross_entropy": [(P, SOFT_BITS, {"weight": WEIGHT})],
        "binary_cross_entropy_with_logits": [(X, SOFT_BITS, {"weight": WEIGHT, "pos_weight": WEIGHT})],
        "kl_div": [(LOGS, SHARES, {}), (LOGS, LOGS[::-1].copy(), {"log_target": True})],
        "soft_margin_loss": [(X, 2 * BITS - 1, {})],
        "multilabel_soft_margin_loss": [(X, SOFT_BITS, {"weight": WEIGHT})],
    },
}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """Keras casts what it gets to its floatx."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras", reason="an original, keras, is not installed")
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


def original(preset: str, name: str) -> tuple[str, Any, Any]:
    """Whose autodiff, the function, and how it takes an array."""
    if preset == "torch":
        torch = pytest.importorskip("torch", reason="the original, torch, is not installed")
        return "torch", getattr(torch.nn.functional, name), torch.tensor
    jnp = pytest.importorskip("jax.numpy", reason="the originals' jax is not installed")
    module = importlib.import_module(f"{preset}.losses")
    return "jax", getattr(module, name), jnp.asarray


@pytest.mark.parametrize(("preset", "name"), [(p, n) for p, names in CASES.items() for n in names])
def test_closed_form(lib: Any, originals: Any, preset: str, name: str) -> None:
    way, theirs, array = original(preset, name)
    ours = value_and_grad(getattr(getattr(arrayloss.compat, preset), name))
    for x, y, options in lib.few(CASES[preset][name]):
        reduced = {"reduction": "none"} if preset == "torch" else {}
        moved = {k: array(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        order = slice(None, None, -1 if preset == "keras" else 1)
        expected = originals[way](lambda x: theirs(*(x, array(y))[order], **moved, **reduced), x)
        # The cotangents are those that the originals are pulled back with.
        cotangent = np.arange(1.0, expected[0].size + 1).reshape(expected[0].shape)
        given = {k: lib.array(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        args = (lib.array(x), lib.array(y))[order]
        value, gradient = ours(*args, **given, **reduced, cotangent=lib.array(cotangent))
        # Keras on JAX takes means in float32; Optax's gradient at a class left out may be nan, ours is 0.
        rtol = 1e-6 if name.startswith("binary_") and preset == "keras" else 1e-10
        where = np.broadcast_to(options.get("where", True), x.shape)
        np.testing.assert_allclose(np.asarray(value), expected[0], rtol=rtol, atol=1e-14, err_msg=f"{options}")
        top = np.abs(expected[1][where]).max()
        np.testing.assert_allclose(
            np.asarray(gradient), np.where(where, expected[1], 0), rtol=rtol, atol=1e-13 * top, err_msg=f"{options}"
        )


def test_every_loss_has_one() -> None:
    no_losses = {"softmax", "log_softmax", "logsigmoid", "smooth_labels"}
    for name in arrayloss.compat.__all__:
        module = getattr(arrayloss.compat, name)
        for member, function in vars(module).items():
            if inspect.isfunction(function) and function.__module__ == module.__name__ and member[0] != "_":
                assert member in no_losses or callable(value_and_grad(function)), member


@pytest.mark.parametrize("normalize", [True, False])
def test_sklearn(lib: Any, originals: Any, normalize: bool) -> None:
    """scikit-learn has no gradient: that of the formula, by torch."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    weight = np.arange(1.0, 6.0)
    over = weight.sum() if normalize else 1
    clipped = lambda p: p.clip(np.finfo(np.float64).eps, 1 - np.finfo(np.float64).eps)
    rows = lambda p: -(torch.tensor(weight) * clipped(p)[torch.arange(5), torch.tensor(LABELS)].log()).sum() / over
    bits = BITS[:, 0].astype(np.int64)
    sides = lambda p: (
        -(torch.tensor(weight) * torch.where(torch.tensor(bits == 1), clipped(p), 1 - clipped(p)).log()).sum() / over
    )
    for p, y, formula in [(P, LABELS, rows), (P[:, 0], bits, sides), (P[:, :1], bits, None)]:
        if formula is None:
            value0, gradient0 = originals["torch"](lambda p: sides(p[:, 0]), p)
        else:
            value0, gradient0 = originals["torch"](formula, p)
        value, gradient = value_and_grad(arrayloss.compat.sklearn.log_loss)(
            y, lib.array(p), normalize=normalize, sample_weight=lib.array(weight)
        )
        np.testing.assert_allclose(np.asarray(value), value0, rtol=1e-13)
        np.testing.assert_allclose(np.asarray(gradient), gradient0, rtol=1e-12)


def test_onnx_and_torchvision(lib: Any, originals: Any) -> None:
    """The originals have no autodiff here: torch's loss is ONNX's, and Optax's focal loss torchvision's."""
    compat = arrayloss.compat
    way, theirs, array = original("torch", "cross_entropy")
    expected = originals[way](lambda x: theirs(x, array(LABELS), array(WEIGHT), ignore_index=1), X)
    args = (lib.array(X), lib.array(LABELS), lib.array(WEIGHT))
    value, gradient = value_and_grad(compat.onnx.SoftmaxCrossEntropyLoss)(*args, ignore_index=1)
    np.testing.assert_allclose(np.asarray(value), expected[0], rtol=1e-13)
    np.testing.assert_allclose(np.asarray(gradient), expected[1], rtol=1e-12)
    logs = arrayloss.log_softmax(lib.array(X))
    again, _ = value_and_grad(compat.onnx.NegativeLogLikelihoodLoss)(logs, *args[1:], ignore_index=1)
    np.testing.assert_allclose(np.asarray(again), expected[0], rtol=1e-12)
    way, theirs, array = original("optax", "sigmoid_focal_loss")
    expected = originals[way](lambda x: theirs(x, array(SOFT_BITS), alpha=0.25).sum(), X)
    ours = value_and_grad(compat.torchvision.sigmoid_focal_loss)
    value, gradient = ours(lib.array(X), lib.array(SOFT_BITS), reduction="sum")
    np.testing.assert_allclose(np.asarray(value), expected[0], rtol=1e-12)
    np.testing.assert_allclose(np.asarray(gradient), expected[1], rtol=1e-11)


def test_outside_the_clip_there_is_no_gradient() -> None:
    """As in Keras: a wrong answer of probability 0 learns nothing. epsilon=0 takes the clip off."""
    keras, p, y = arrayloss.compat.keras, np.asarray([[1e-9, 0.5]]), np.asarray([[1.0, 1.0]])
    both = value_and_grad(keras.binary_crossentropy)
    one = np.ones(1)
    np.testing.assert_allclose(both(y, p, cotangent=one)[1], [[0.0, -1.0]])
    np.testing.assert_allclose(both(y, p, epsilon=0, cotangent=one)[1], [[-0.5e9, -1.0]])


def test_infinite_logits() -> None:
    """The focal presets' own kernel: certain answers, right and wrong."""
    x, y = np.asarray([np.inf, -np.inf, np.inf, -np.inf]), np.asarray([1.0, 0.0, 0.0, 1.0])
    focal = arrayloss.compat.torchvision.sigmoid_focal_loss
    value, gradient = value_and_grad(focal)(x, y, alpha=-1, cotangent=np.ones(4))
    np.testing.assert_array_equal(value, [0, 0, np.inf, np.inf])
    np.testing.assert_array_equal(gradient, [0, 0, 1, -1])


def test_a_preset_takes_the_reductions_it_names() -> None:
    focal = arrayloss.compat.torchvision.sigmoid_focal_loss
    value, gradient = value_and_grad(focal)(X, BITS, reduction=Hardest(k=1))
    each = focal(X, BITS)
    assert value == each.max()
    assert (gradient != 0).sum() == 1


@pytest.mark.parametrize(
    ("preset", "name"),
    [
        ("keras", "sparse_categorical_crossentropy"),
        ("keras", "binary_focal_crossentropy"),
        ("optax", "softmax_cross_entropy"),
    ],
)
def test_under_compilers(preset: str, name: str) -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    torch = pytest.importorskip("torch", reason="torch is not installed")
    function = getattr(getattr(arrayloss.compat, preset), name)
    x, y, options = CASES[preset][name][1]
    order = slice(None, None, -1 if preset == "keras" else 1)
    call = lambda x, y: function(*(x, y)[order], **options).sum()
    args = (x, y)[order]
    ones = np.ones_like(function(*args, **options))
    expected = value_and_grad(function)(*args, **options, cotangent=ones)
    leaf = torch.tensor(x, requires_grad=True)
    value = torch.compile(call, fullgraph=True, backend="aot_eager")(leaf, torch.tensor(y))
    value.backward()
    np.testing.assert_allclose(value.detach(), expected[0].sum(), rtol=1e-12)
    np.testing.assert_allclose(leaf.grad, expected[1], rtol=1e-10, atol=1e-15)
    with jax.enable_x64(True):
        value, gradient = jax.jit(jax.value_and_grad(call))(jax.numpy.asarray(x), jax.numpy.asarray(y))
        np.testing.assert_allclose(value, expected[0].sum(), rtol=1e-12)
        np.testing.assert_allclose(gradient, expected[1], rtol=1e-10, atol=1e-15)
