"""Options that are numbers: any real scalar is one, a traced one too."""

from __future__ import annotations

import inspect
import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import arrayloss as al
from arrayloss import value_and_grad
from outside.common import arguments, close, losses_of

OPTIONS = [
    (al.softmax_focal_loss, "gamma", 2.0),
    (al.softmax_focal_loss, "gamma", 0.5),
    (al.softmax_focal_loss, "label_smoothing", 0.25),
    (al.cross_entropy, "label_smoothing", 0.25),
    (al.cross_entropy, "temperature", 2.0),
    (al.kl_divergence, "temperature", 2.5),
    (al.cross_entropy, "z_loss", 0.125),
    (al.poly_loss, "epsilon", 0.5),
    (al.poly_loss, "label_smoothing", 0.5),
    (al.sigmoid_focal_loss, "gamma", 1.0),
    (al.sigmoid_focal_loss, "alpha", 0.25),
    (al.softmax_focal_loss, "alpha", 0.25),
    (al.sigmoid_focal_loss, "pos_weight", 3.0),
    (al.binary_cross_entropy_with_logits, "pos_weight", 3.0),
    (al.binary_cross_entropy_with_logits, "label_smoothing", 0.25),
    (al.asymmetric_loss, "gamma_positive", 2.0),
    (al.asymmetric_loss, "gamma_negative", 2.0),
    (al.asymmetric_loss, "margin", 0.25),
]
OPTIONS = [it for it in OPTIONS if it[1] in inspect.signature(it[0]).parameters]
over_options = pytest.mark.parametrize(
    ("loss", "option", "number"), OPTIONS, ids=lambda a: getattr(a, "__name__", str(a))
)


def expected_of(loss: Any, x: Any, t: Any, option: str, number: float) -> Any:
    if option == "z_loss":
        return losses_of(loss, x, t) + number * np.log(np.exp(x).sum(-1)) ** 2
    return losses_of(loss, x, t, **{option: number})


@over_options
def test_every_real_scalar(backend: Any, loss: Any, option: str, number: float) -> None:
    x, t = arguments(loss, shape=(4, 3))
    expected = expected_of(loss, x, t, option, number)
    moved = backend.asarray(x), backend.asarray(t)
    kinds = [np.float32(number), np.float64(number), np.float16(number), Fraction(number)]
    if backend.library == "numpy":
        kinds.append(np.asarray(number, dtype=np.float32))
    if number == int(number):
        kinds += [int(number), np.int64(number), np.uint8(number)]
    # The library's own 0-d array, another's, and JAX's and torch's dispatch of each kind, once.
    own = [backend.asarray(np.asarray(number)), np.asarray(number)]
    for scalar in own + (kinds if backend.library != "jax" else kinds[:2]):
        got = loss(*moved, **{option: scalar}, reduction="none")
        close(backend.to_numpy(got), expected, 20 * backend.rtol(), f"{type(scalar)}")
        assert got.dtype == moved[0].dtype, type(scalar)
        value, gradient = value_and_grad(loss)(*moved, **{option: scalar})
        close(backend.to_numpy(value), expected.mean(), 20 * backend.rtol(), f"{type(scalar)}")
        assert gradient.dtype == moved[0].dtype, type(scalar)


@over_options
def test_a_wide_scalar_leaves_narrow_logits_as_they_are(loss: Any, option: str, number: float) -> None:
    """An option of float64 is a number, no array that promotes."""
    x, t = arguments(loss, shape=(4, 3))
    for scalar in (np.float64(number), np.asarray(number)):
        value, gradient = value_and_grad(loss)(x.astype(np.float32), t, **{option: scalar})
        assert (value.dtype, gradient.dtype) == (np.float32, np.float32)


@over_options
def test_what_is_no_real_scalar(loss: Any, option: str, number: float) -> None:
    x, t = arguments(loss, shape=(4, 3))
    wrong: list[Any] = ["2", 1j, np.complex64(1), [number]]
    if option != "pos_weight":  # which broadcasts
        wrong += [np.asarray([number, number]), True, np.True_]
    for given in wrong:
        with pytest.raises((TypeError, ValueError), match=option):
            loss(x, t, **{option: given})


@over_options
@pytest.mark.only(lambda option: option not in ("pos_weight", "z_loss"))  # where any number will do
def test_a_scalar_out_of_range_whatever_its_kind(loss: Any, option: str, number: float) -> None:
    x, t = arguments(loss, shape=(4, 3))
    for given in (np.float32(-1.5), np.asarray(-1.5), Fraction(-3, 2), np.float64("nan")):
        with pytest.raises(ValueError, match=option):
            loss(x, t, **{option: given})


@over_options
def test_a_traced_scalar(loss: Any, option: str, number: float) -> None:
    jax = pytest.importorskip("jax")
    x, t = arguments(loss, shape=(4, 3))
    moved = jax.numpy.asarray(x, dtype=np.float32), jax.numpy.asarray(t)
    run = jax.jit(lambda x, t, number: value_and_grad(loss)(x, t, **{option: number}))
    for now in (number, number / 2):
        value, gradient = run(*moved, now)
        due = value_and_grad(loss)(*moved, **{option: now})
        close(value, expected_of(loss, x, t, option, now).mean(), 1e-5)
        close(value, due[0], 1e-5)
        close(gradient, due[1], 1e-5)
        assert value.dtype == np.float32


def test_a_schedule_of_traced_scalars() -> None:
    """gamma grows from step to step, within one program; 0 is among them."""
    jax = pytest.importorskip("jax")
    x, t = arguments(al.softmax_focal_loss, shape=(4, 3))
    moved = jax.numpy.asarray(x, dtype=np.float32), jax.numpy.asarray(t)
    gammas = np.asarray([0.0, 0.5, 2.0], dtype=np.float32)
    step = lambda carry, gamma: (carry, al.softmax_focal_loss(*moved, gamma=gamma))  # noqa: E731
    got = jax.lax.scan(step, 0, gammas)[1]
    close(got, [losses_of(al.softmax_focal_loss, x, t, gamma=float(g)).mean() for g in gammas], 1e-5)


def slope(loss: Any, x: Any, t: Any, option: str, number: float) -> float:
    step = 1e-6
    up, down = (expected_of(loss, x, t, option, number + s).mean() for s in (step, -step))
    return float(up - down) / (2 * step)


@over_options
def test_a_derivative_by_an_option_is_right_or_an_error_in_jax(loss: Any, option: str, number: float) -> None:
    """Never a silent 0."""
    jax = pytest.importorskip("jax")
    x, t = arguments(loss, shape=(4, 3))
    with jax.enable_x64(True):
        moved = jax.numpy.asarray(x), jax.numpy.asarray(t)
        try:
            got = jax.grad(lambda number: loss(*moved, **{option: number}))(number)
        except Exception as error:
            assert "option" in str(error) or option in str(error) or "derivative" in str(error), error  # noqa: PT017
            return
        close(got, slope(loss, x, t, option, number), 1e-4)


@over_options
def test_a_derivative_by_an_option_is_right_or_an_error_in_torch(loss: Any, option: str, number: float) -> None:
    torch = pytest.importorskip("torch")
    x, t = arguments(loss, shape=(4, 3))
    leaf = torch.tensor(number, dtype=torch.float64, requires_grad=True)
    try:
        value = loss(torch.tensor(x), torch.tensor(t), **{option: leaf})
        (got,) = torch.autograd.grad(value, leaf)
    except (RuntimeError, TypeError, ValueError) as error:
        assert option in str(error), error  # noqa: PT017
        return
    close(got, slope(loss, x, t, option, number), 1e-4)


def test_numbers_of_numpy_beside_another_library() -> None:
    torch = pytest.importorskip("torch")
    x, labels = arguments(al.cross_entropy, shape=(4, 3))
    due = al.cross_entropy(x, labels, reduction=al.Mean(over=Fraction(3)))
    for number in (np.float32(3), np.float64(3)):
        close(al.cross_entropy(torch.tensor(x), torch.tensor(labels), reduction=al.Mean(over=number)), due, 1e-12)


@pytest.mark.parametrize("traced", [False, True])
def test_scalars_of_presets(traced: bool) -> None:
    from arrayloss.compat import keras, optax, torchvision

    jax = pytest.importorskip("jax")
    x = jax.numpy.asarray(arguments(al.softmax_focal_loss, shape=(4, 3))[0], dtype=np.float32)
    bits = (x > 0).astype(np.float32)
    calls: list[Any] = [
        lambda **o: torchvision.sigmoid_focal_loss(x, bits, **o),
        lambda **o: optax.sigmoid_focal_loss(x, bits, **o),
        lambda **o: keras.binary_focal_crossentropy(bits, x, True, from_logits=True, **o),
        lambda **o: keras.categorical_focal_crossentropy(bits, x, from_logits=True, **o),
    ]
    for call, (option, number) in itertools.product(calls, (("alpha", 0.25), ("gamma", 1.5))):
        due = call(**{option: number})
        if traced:
            close(jax.jit(lambda v, call=call, option=option: call(**{option: v}))(number), due, 1e-5)
        for scalar in () if traced else (np.float32(number), np.asarray(number), Fraction(number)):
            got = call(**{option: scalar})
            close(got, due, 1e-6)
            assert got.dtype == np.float32
    smooth = optax.smooth_labels(np.ones(3, dtype=np.float32), np.float64(0.25))
    assert smooth.dtype == np.float32


def test_numbers_of_numpy_in_a_reduction() -> None:
    x, t = arguments(al.cross_entropy, shape=(8, 3))
    due = al.cross_entropy(x, t, reduction=al.Hardest(fraction=0.5))
    assert al.cross_entropy(x, t, reduction=al.Hardest(fraction=np.float32(0.5))) == due
    due = al.cross_entropy(x, t, reduction=al.Mean(over=4.0))
    for over in (np.float32(4), np.int64(4)):
        assert al.cross_entropy(x, t, reduction=al.Mean(over=over)) == due
