"""Every option against the decimal reference, and the properties that tie the functions to each other.

NumPy, torch and array-api-strict run each option alone and all at once. JAX, which compiles each operation for each
shape, and Dask, which makes a graph of it, run them all at once: they share the code that reads the options.
"""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import arrayloss
from arrayloss import (
    Hardest,
    Mean,
    Sum,
    asymmetric_loss,
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    nll_loss,
    poly_loss,
    sigmoid_focal_loss,
    softmax_focal_loss,
    value_and_grad,
)

RNG = np.random.default_rng(20240607)
LOGITS = RNG.normal(size=(6, 4)).round(3)
LABELS = np.array([0, 3, 1, 1, 2, 0])
SOFT = RNG.dirichlet(np.ones(4), size=6)
WEIGHT = np.array([1.0, 0.5, 2.0, 0.25, 3.0, 1.5])
CLASS_WEIGHT = np.array([1.0, 0.25, 2.0, 0.5])
ALPHA = np.array([0.5, 0.25, 1.0, 0.75])
WHERE = np.array([True, True, False, True, False, True])

FLAT = RNG.normal(size=(4, 3)).round(3)
BITS = (RNG.random((4, 3)) > 0.5).astype(np.int64)
PROBABILITIES = RNG.random((4, 3)).round(3)
ELEMENTS = RNG.uniform(0.5, 2.0, (4, 3)).round(3)


def names(x: Any) -> str:
    return getattr(x, "__name__", repr(x))


def reduction_of(reduction: Any, default: Any = reference.mean) -> Any:
    return {"none": reference.none, "sum": reference.total, "mean": reference.mean}.get(reduction, default)


def check_categorical(
    backend: Any, loss: Any, logits: Any, target: Any, reduce: Any = None, rtol: float = 0, **options: Any
) -> None:
    mine = dict(options)
    reduction = mine.pop("reduction", "mean")
    if loss is softmax_focal_loss:
        mine.setdefault("gamma", 2.0)
    if loss is poly_loss:
        mine.setdefault("epsilon", 2.0)
    if loss is nll_loss:
        mine["log_probs"] = True
    reduce = reduce or reduction_of(reduction)
    value = reference.value(reference.categorical, logits, target, reduce=reduce, **mine)
    slope = reduce if reduction != "none" else reference.total
    gradient = reference.gradient(reference.categorical, logits, target, reduce=slope, **mine)
    backend.agree(loss, logits, target, value, gradient, rtol=rtol or 4 * backend.rtol(), **options)


def check_binary(backend: Any, loss: Any, logits: Any, target: Any, reduce: Any = None, **options: Any) -> None:
    mine = dict(options)
    reduction = mine.pop("reduction", "mean")
    if loss is sigmoid_focal_loss:
        mine.setdefault("gamma", 2.0)
    if loss is asymmetric_loss:
        mine["gammas"] = mine.pop("gamma_positive", 1.0), mine.pop("gamma_negative", 4.0)
        mine.setdefault("margin", 0.05)
    if loss is binary_cross_entropy:
        mine["probs"] = True
    reduce = reduce or reduction_of(reduction)
    value = reference.value(reference.binary, logits, target, reduce=reduce, **mine)
    slope = reduce if reduction != "none" else reference.total
    gradient = reference.gradient(reference.binary, logits, target, reduce=slope, **mine)
    backend.agree(loss, logits, target, value, gradient, rtol=4 * backend.rtol(), **options)


# --- categorical --------------------------------------------------------------------------------------------

CATEGORICAL = [cross_entropy, nll_loss, softmax_focal_loss, poly_loss]
COMMON: list[dict[str, Any]] = [
    {},
    {"class_weight": CLASS_WEIGHT},
    {"sample_weight": WEIGHT},
    {"where": WHERE},
    {"class_weight": CLASS_WEIGHT, "sample_weight": WEIGHT, "where": WHERE},
]
SMOOTH: list[dict[str, Any]] = [
    {"label_smoothing": 0.1},
    {"label_smoothing": 1.0, "class_weight": CLASS_WEIGHT},
]
FOCAL: list[dict[str, Any]] = [
    {"gamma": 0.0},
    {"gamma": 0.5},
    {"gamma": 1},
    {"gamma": 5.0, "alpha": ALPHA},
    {"gamma": np.array([0.0, 2.5, 1.0, 0.5])},
    {"gamma": WEIGHT[:, None]},
    {"gamma": ALPHA * 4, "alpha": ALPHA, "label_smoothing": 0.2, "sample_weight": WEIGHT, "where": WHERE},
    {"alpha": 0.25},
    {"alpha": np.array(0.75), "class_weight": CLASS_WEIGHT},
    {
        "alpha": ALPHA,
        "class_weight": CLASS_WEIGHT,
        "sample_weight": WEIGHT,
        "where": WHERE,
        "label_smoothing": 0.2,
    },
]
POLY: list[dict[str, Any]] = [
    {"epsilon": -1},
    {"epsilon": -0.75, "class_weight": CLASS_WEIGHT, "label_smoothing": 0.2},
    {"epsilon": 0.0},
    {"epsilon": 7.5, "sample_weight": WEIGHT, "where": WHERE, "label_smoothing": 0.2},
]
Z: list[dict[str, Any]] = [
    {"z_loss": 0.01},
    {"z_loss": 0.5, "class_weight": CLASS_WEIGHT, "sample_weight": WEIGHT, "where": WHERE, "label_smoothing": 0.2},
]
CASES = [(loss, options) for loss in CATEGORICAL for options in COMMON]
CASES += [(loss, options) for loss in (cross_entropy, softmax_focal_loss, poly_loss) for options in SMOOTH]
CASES += [(cross_entropy, options) for options in Z]
CASES += [(cross_entropy, {"temperature": 2.5, "z_loss": 0.1, "label_smoothing": 0.1, "class_weight": CLASS_WEIGHT})]
CASES += [(softmax_focal_loss, options) for options in FOCAL]
CASES += [(poly_loss, options) for options in POLY]


@pytest.mark.only(lambda backend, options: backend.is_quick or len(options) > 2)
@pytest.mark.parametrize("soft", [False, True], ids=["index", "soft"])
@pytest.mark.parametrize(("loss", "options"), CASES, ids=lambda v: names(v) if callable(v) else "+".join(v) or "plain")
def test_categorical_options(backend: Any, loss: Any, options: dict[str, Any], soft: bool) -> None:
    check_categorical(backend, loss, LOGITS, SOFT if soft else LABELS, **options)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_categorical_reductions(backend: Any, reduction: str) -> None:
    check_categorical(
        backend,
        cross_entropy,
        LOGITS,
        LABELS,
        reduction=reduction,
        sample_weight=WEIGHT,
        class_weight=CLASS_WEIGHT,
    )


@pytest.mark.only(lambda backend, options: backend.is_quick or len(options) > 2)
@pytest.mark.parametrize("options", [*COMMON, *SMOOTH], ids="+".join)
def test_index_labels_and_one_hot_agree(backend: Any, options: dict[str, Any]) -> None:
    moved = backend.options(options)
    for loss in CATEGORICAL:
        if loss is nll_loss and "label_smoothing" in options:
            continue
        x = backend.asarray(LOGITS)
        one, two = (
            [backend.to_numpy(a) for a in value_and_grad(loss)(x, backend.asarray(target), **moved)]
            for target in (LABELS, reference.one_hot(LABELS, 4))
        )
        np.testing.assert_allclose(one[0], two[0], rtol=backend.rtol())
        np.testing.assert_allclose(one[1], two[1], rtol=backend.rtol(), atol=backend.rtol())


def test_ignore_index(backend: Any) -> None:
    for value in (-100, 3, 255, -1):
        labels = np.where(np.arange(6) % 2 == 0, value, LABELS)
        labels[1] = 2
        check_categorical(backend, cross_entropy, LOGITS, labels, ignore_index=value, class_weight=CLASS_WEIGHT)


def test_several_values_to_ignore(backend: Any) -> None:
    """Each of them, whatever the dtype of the target: one that it can't hold is in none of its elements."""
    labels, bits = np.array([0, 255, 1, 3, 2, 255]), np.where(ELEMENTS > 1.5, 2, BITS)
    several: dict[str, Any] = {"ignore_index": (255, 1, 3, -7), "reduction": "sum"}
    for dtype in ("uint8", "int32"):
        taken = reference.value(reference.categorical, LOGITS[[0, 4]], LABELS[[0, 4]], reduce=reference.total)
        got = cross_entropy(backend.asarray(LOGITS), backend.asarray(labels.astype(dtype)), **several)
        np.testing.assert_allclose(backend.to_numpy(got), taken, rtol=4 * backend.rtol())
        taken = reference.value(reference.binary, FLAT, BITS, where=bits == 0, reduce=reference.mean)
        got = binary_cross_entropy_with_logits(
            backend.asarray(FLAT), backend.asarray(bits.astype(dtype)), ignore_index=(2, 1, -1)
        )
        np.testing.assert_allclose(backend.to_numpy(got), taken, rtol=4 * backend.rtol())
    got = binary_cross_entropy_with_logits(backend.asarray(FLAT), backend.asarray(BITS > 0), ignore_index=(2, 1))
    taken = reference.value(reference.binary, FLAT, BITS, where=BITS == 0, reduce=reference.mean)
    np.testing.assert_allclose(backend.to_numpy(got), taken, rtol=4 * backend.rtol())


@pytest.mark.only(lambda backend, dtype: backend.has_int64 or dtype != "int64")
@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8"])
def test_label_dtypes(backend: Any, dtype: str) -> None:
    check_categorical(backend, cross_entropy, LOGITS, LABELS.astype(dtype))
    check_binary(backend, binary_cross_entropy_with_logits, FLAT, BITS.astype(dtype))


@pytest.mark.only(lambda backend, shape: backend.is_quick or shape == (2, 3, 2))
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((3,), -1), ((3,), 0), ((2, 3), 0), ((2, 3, 2), 1), ((2, 3, 2), -2), ((3, 2, 2), 0), ((2, 2, 2, 3), 3)],
    ids=str,
)
@pytest.mark.parametrize("soft", [False, True], ids=["index", "soft"])
def test_any_axis(backend: Any, shape: tuple[int, ...], axis: int, soft: bool) -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(size=shape).round(3)
    classes = shape[axis]
    rest = list(shape)
    del rest[axis]
    labels = rng.integers(0, classes, rest)
    target = np.moveaxis(reference.one_hot(labels, classes) * 0.75 + 0.25 / classes, -1, axis) if soft else labels
    weight = rng.uniform(0.5, 2.0, rest)
    options = {
        "axis": axis,
        "class_weight": rng.uniform(0.5, 2.0, classes),
        "sample_weight": np.asarray(weight),
    }
    check_categorical(backend, cross_entropy, logits, target, **options)
    check_categorical(backend, softmax_focal_loss, logits, target, reduction="none", **options)


@pytest.mark.compiled
@pytest.mark.only(lambda backend: backend.name not in ("jax:cpu", "torch:cpu:compile"))
def test_smoothed_labels_of_many_classes_that_tie(backend: Any) -> None:
    """1 / 64 - s / 64 beside the label. Added one after another, 63 equal numbers are all rounded the same way."""
    x = np.zeros((3, 64))
    for smoothing in (0.125, 0.3):
        gradient = np.full(x.shape, (1 - smoothing) / 64)
        gradient[:, 1] -= 1 - smoothing
        for dtype in {"float32", backend.default}:
            loss = backend.once((smoothing, dtype), partial(value_and_grad(cross_entropy), label_smoothing=smoothing))
            _, got = loss(backend.asarray(x, dtype), backend.asarray(np.ones(3, dtype=int)))
            units = np.abs(backend.to_numpy(got) * 3 - gradient) / (np.finfo(dtype).eps / 64)
            assert units.max() <= 8, (dtype, smoothing, units.max())


@pytest.mark.only(lambda backend: backend.is_quick)
def test_sample_weight_broadcasts(backend: Any) -> None:
    rng = np.random.default_rng(6)
    logits, labels = rng.normal(size=(2, 3, 4)).round(3), rng.integers(0, 4, (2, 3))
    for weight in (np.array([[1.0], [0.25]]), np.array([1.0, 0.5, 2.0]), np.array(3.0)):
        check_categorical(backend, cross_entropy, logits, labels, sample_weight=weight)
    for weight in (np.array([[1.0], [0.25], [2.0], [0.5]]), np.array([1.0, 0.5, 2.0])):
        check_binary(backend, binary_cross_entropy_with_logits, FLAT, BITS, sample_weight=weight)
        check_binary(backend, sigmoid_focal_loss, FLAT, BITS, sample_weight=weight, where=BITS > 0)


@pytest.mark.only(lambda backend: backend.is_quick)
def test_activations_along_any_axis(backend: Any) -> None:
    x = np.random.default_rng(7).normal(size=(2, 3, 2)).astype(np.float32).astype(float)
    for axis in (0, 1, -1, -2):
        e = np.exp(x)
        total = e.sum(axis, keepdims=True)
        given = backend.asarray(x)
        rtol = 2 * backend.rtol()
        got = backend.to_numpy(arrayloss.softmax(given, axis=axis))
        np.testing.assert_allclose(got, e / total, rtol=rtol)
        got = backend.to_numpy(arrayloss.log_softmax(given, axis=axis))
        np.testing.assert_allclose(got, x - np.log(total), rtol=rtol)
        for keepdims in (False, True):
            got = backend.to_numpy(arrayloss.logsumexp(given, axis=axis, keepdims=keepdims))
            expected = np.log(total if keepdims else total.squeeze(axis))
            assert got.shape == expected.shape
            # max + log1p(rest) may cancel: measured against the terms, not their sum.
            np.testing.assert_allclose(got, expected, rtol=rtol, atol=backend.rtol())


# --- binary -------------------------------------------------------------------------------------------------

BINARY = [binary_cross_entropy_with_logits, sigmoid_focal_loss, asymmetric_loss, binary_cross_entropy]
B_COMMON: list[dict[str, Any]] = [
    {},
    {"sample_weight": ELEMENTS},
    {"where": ELEMENTS > 1},
    {"ignore_index": 0},
]
B_ANSWERS: list[dict[str, Any]] = [
    {"pos_weight": np.array([0.5, 2.0, 3.0])},
    {"pos_weight": np.array(2.0)},
    {"pos_weight": 2.5},
    {"label_smoothing": 0.1},
    {"label_smoothing": 0.3, "pos_weight": ELEMENTS, "sample_weight": ELEMENTS, "where": ELEMENTS > 0.8},
]
B_FOCAL: list[dict[str, Any]] = [
    {"gamma": 0},
    {"gamma": 0.5},
    {"gamma": 5.0},
    {"alpha": 0.25},
    {"gamma": np.array([0.0, 2.5, 1.0])},
    {"gamma": ELEMENTS, "pos_weight": 3.0, "label_smoothing": 0.2, "sample_weight": ELEMENTS},
    {"alpha": np.array(0.75)},
    {"alpha": np.array([0.25, 1.0, 0.5])},
    {"alpha": 0},
    {"alpha": 1.0},
    {"alpha": 0.25, "gamma": 1.5, "pos_weight": 3.0, "label_smoothing": 0.2, "sample_weight": ELEMENTS},
]
B_ASYMMETRIC: list[dict[str, Any]] = [
    {"margin": 0.0},
    {"margin": 0.6},
    {"margin": 1},
    {"gamma_positive": 0.0, "gamma_negative": 0.0},
    {"gamma_positive": 2.5, "gamma_negative": 0.5, "margin": 0.25, "pos_weight": 3.0, "sample_weight": ELEMENTS},
]
B_CASES = [(loss, options) for loss in BINARY for options in B_COMMON]
B_CASES += [(loss, options) for loss in BINARY for options in B_ANSWERS]
B_CASES += [(sigmoid_focal_loss, options) for options in B_FOCAL]
B_CASES += [(asymmetric_loss, options) for options in B_ASYMMETRIC]


@pytest.mark.only(lambda backend, options: backend.is_quick or len(options) > 2)
@pytest.mark.only(lambda options, soft: not (soft and "ignore_index" in options))  # which goes with integers
@pytest.mark.parametrize("soft", [False, True], ids=["bits", "soft"])
@pytest.mark.parametrize(
    ("loss", "options"), B_CASES, ids=lambda v: names(v) if callable(v) else "+".join(v) or "plain"
)
def test_binary_options(backend: Any, loss: Any, options: dict[str, Any], soft: bool) -> None:
    logits = PROBABILITIES[::-1] if loss is binary_cross_entropy else FLAT
    check_binary(backend, loss, np.array(logits), PROBABILITIES if soft else BITS, **options)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("loss", BINARY, ids=names)
def test_binary_reductions(backend: Any, loss: Any, reduction: str) -> None:
    logits = PROBABILITIES if loss is binary_cross_entropy else FLAT
    check_binary(backend, loss, logits, BITS, reduction=reduction, sample_weight=ELEMENTS)


def test_bool_integer_and_float_targets_agree(backend: Any) -> None:
    x = backend.asarray(FLAT)
    for loss in BINARY[:3]:
        outs = [
            backend.to_numpy(loss(x, backend.asarray(BITS.astype(kind)), reduction="none"))
            for kind in (bool, np.int64, np.int8, float)
        ]
        for out in outs[1:]:
            np.testing.assert_allclose(out, outs[0], rtol=backend.rtol())


# --- reductions ---------------------------------------------------------------------------------------------

REDUCTIONS = [
    (Mean(), "weight"),
    (Mean(over="weight"), "weight"),
    (Mean(over="valid"), "valid"),
    (Mean(over="all"), "all"),
    (Mean(over=7), 7.0),
    (Mean(over=2.5, empty="zero"), 2.5),
]


@pytest.mark.parametrize(("reduction", "what"), REDUCTIONS, ids=str)
def test_mean_over(backend: Any, reduction: Any, what: Any) -> None:
    labels = np.array([0, 3, -100, 1, 2, 0])
    options = {"sample_weight": WEIGHT, "class_weight": CLASS_WEIGHT, "where": WHERE | (np.arange(6) == 2)}
    reduce = reference.over(what)
    check_categorical(backend, cross_entropy, LOGITS, labels, reduce=reduce, reduction=reduction, **options)
    check_binary(
        backend,
        sigmoid_focal_loss,
        FLAT,
        BITS,
        reduce=reduce,
        reduction=reduction,
        sample_weight=ELEMENTS,
        where=ELEMENTS > 1,
    )


def test_mean_over_an_array(backend: Any) -> None:
    """The number of boxes in a batch, say: a 0-d array of the same library, traced or not."""
    x, y, number = backend.asarray(FLAT), backend.asarray(BITS), backend.asarray(np.array(5.0))
    got = backend.to_numpy(sigmoid_focal_loss(x, y, reduction=Mean(over=number)))
    expected = reference.value(reference.binary, FLAT, BITS, gamma=2.0, reduce=reference.over(5.0))
    np.testing.assert_allclose(got, expected, rtol=2 * backend.rtol())


def test_sum(backend: Any) -> None:
    check_categorical(
        backend, cross_entropy, LOGITS, LABELS, reduce=reference.total, reduction=Sum(), sample_weight=WEIGHT
    )


@pytest.mark.parametrize("over", ["weight", "valid", "all", 2.0])
def test_means_along_an_axis(backend: Any, over: Any) -> None:
    """What the mean of the losses of each row is, padding left out; nan or 0 of a row of padding."""
    logits, labels = LOGITS.reshape(3, 2, 4), np.array([[0, 3], [1, -100], [-100, -100]])
    x, t, w = (backend.asarray(a) for a in (logits, labels, WEIGHT.reshape(3, 2)))
    each = backend.to_numpy(cross_entropy(x, t, sample_weight=w, reduction="none"))
    counts = (labels >= 0) * {"weight": WEIGHT.reshape(3, 2)}.get(over, 1.0)
    divisor = {"all": 2.0}.get(over, over) if over in ("all", 2.0) else counts.sum(1)
    due = np.where(np.equal(divisor, 0), 0, each.sum(1) / np.maximum(divisor, 1e-9))
    for axis in (1, (-1,)):
        reduction = Mean(over=over, axis=axis, empty="zero")
        got = cross_entropy(x, t, sample_weight=w, reduction=reduction)
        np.testing.assert_allclose(backend.to_numpy(got), due, rtol=2 * backend.rtol())
    nan = backend.to_numpy(cross_entropy(x, t, sample_weight=w, reduction=Mean(over=over, axis=1)))
    assert list(np.isnan(nan)) == [False, False, over in ("weight", "valid")]
    # The gradient is that of "none", each loss weighed as its mean weighs it.
    g = np.array([2.0, 0.5, 1.0])
    pull = np.where(np.equal(divisor, 0), 0, g / np.maximum(divisor, 1e-9))[:, None] * np.ones((3, 2))
    one = value_and_grad(cross_entropy)(x, t, sample_weight=w, reduction=reduction, cotangent=backend.asarray(g))[1]
    two = value_and_grad(cross_entropy)(x, t, sample_weight=w, reduction="none", cotangent=backend.asarray(pull))[1]
    np.testing.assert_allclose(backend.to_numpy(one), backend.to_numpy(two), rtol=8 * backend.rtol())
    both = cross_entropy(x, t, sample_weight=w, reduction=Mean(over=over, axis=(0, 1)))
    np.testing.assert_array_equal(
        backend.to_numpy(both), backend.to_numpy(cross_entropy(x, t, sample_weight=w, reduction=Mean(over=over)))
    )


@pytest.mark.parametrize(
    ("reduction", "k"),
    [(Hardest(k=1), 1), (Hardest(k=3), 3), (Hardest(k=6), 6), (Hardest(fraction=0.5), 3)],
    ids=str,
)
def test_hardest(backend: Any, reduction: Any, k: int) -> None:
    check_categorical(
        backend,
        cross_entropy,
        LOGITS,
        LABELS,
        reduce=reference.hardest(k),
        reduction=reduction,
        sample_weight=WEIGHT,
    )


@pytest.mark.parametrize(
    ("p", "least"), [(0.3, {}), (0.05, {"k": 2}), (0.05, {"fraction": 0.5}), (0.6, {"k": 1})], ids=str
)
def test_hardest_above_a_threshold(backend: Any, p: float, least: dict[str, Any]) -> None:
    """The samples whose label has a probability below p; but as many as there must be."""
    odds = np.exp(LOGITS)
    below = int(np.sum(odds[np.arange(6), LABELS] / odds.sum(1) < p))
    k = max(below, least.get("k", 0), int(6 * least.get("fraction", 0)))
    reduction = Hardest(threshold=-math.log(p), **least)
    check_categorical(backend, cross_entropy, LOGITS, LABELS, reduce=reference.hardest(k), reduction=reduction)


def test_hardest_with_nothing_above_the_threshold(backend: Any) -> None:
    """The mean of nothing; a nan is not nothing."""
    x, y = (backend.asarray(a) for a in (LOGITS, LABELS))
    value, gradient = value_and_grad(cross_entropy)(x, y, reduction=Hardest(threshold=100.0))
    assert math.isnan(backend.to_numpy(value))
    assert not np.any(backend.to_numpy(gradient))
    x = backend.asarray(np.where(np.arange(6)[:, None] == 2, np.nan, LOGITS))
    assert math.isnan(backend.to_numpy(cross_entropy(x, y, reduction=Hardest(threshold=100.0, k=1))))


@pytest.mark.parametrize("fraction", [0.29, 0.57, 0.7, 0.001])
def test_hardest_counts_as_python_does(backend: Any, fraction: float) -> None:
    """int(0.29 * 100) is 28: 0.29 is less than it seems, and its product is not rounded to float32 first."""
    x = backend.asarray(np.linspace(0.0, 5.0, 100))
    y = backend.asarray(np.ones(100, np.int64))
    by_fraction, by_number = (
        binary_cross_entropy_with_logits(x, y, reduction=r)
        for r in (Hardest(fraction=fraction), Hardest(k=max(1, int(fraction * 100))))
    )
    assert float(backend.to_numpy(by_fraction)) == float(backend.to_numpy(by_number))


def test_hardest_leaves_the_ignored_out(backend: Any) -> None:
    """Even where a masked sample would be the hardest, or NaN."""
    logits = np.array([[-50.0, 0.0], [np.nan, 0.0], [1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    labels = np.array([0, 0, 0, 0, 0])
    where = np.array([False, False, True, True, True])
    value = reference.value(reference.categorical, logits[2:], labels[2:], reduce=reference.hardest(2))
    gradient = np.zeros((5, 2))
    gradient[2:] = reference.gradient(reference.categorical, logits[2:], labels[2:], reduce=reference.hardest(2))
    backend.agree(cross_entropy, logits, labels, value, gradient, reduction=Hardest(k=2), where=where)


def test_hardest_shares_among_ties(backend: Any) -> None:
    """Three samples tie for the last place: each has a third of it, whatever their order."""
    logits = np.array([0.5, 3.0, 0.5, -2.0, 0.5])
    labels = np.zeros(5, dtype=np.int64)
    value = (math.log1p(math.exp(3)) + math.log1p(math.exp(0.5))) / 2
    slope = 1 / (1 + np.exp(-logits)) / 2 * np.array([1 / 3, 1, 1 / 3, 0, 1 / 3])
    backend.agree(
        binary_cross_entropy_with_logits,
        logits,
        labels,
        value,
        slope,
        reduction=Hardest(k=2),
        rtol=4 * backend.rtol(),
    )


def test_dtype(backend: Any) -> None:
    for name in backend.floats:
        dtype = backend.dtype(name)
        out = cross_entropy(backend.asarray(LOGITS), backend.asarray(LABELS), dtype=dtype)
        assert out.dtype == dtype
        expected = reference.value(reference.categorical, LOGITS, LABELS, reduce=reference.mean)
        rtol = max(backend.rtol(name), 4 * backend.rtol())
        np.testing.assert_allclose(backend.to_numpy(out), expected, rtol=rtol)


# --- properties ---------------------------------------------------------------------------------------------

property_based = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
# Logits as float32 represents them, so that every backend is given the same.
numbers = st.floats(-30, 30, width=32)
rows = arrays(np.float64, (4, 3), elements=numbers)
flats = arrays(np.float64, (6,), elements=numbers)
labels_ = arrays(np.int64, (4,), elements=st.integers(0, 2))
bits_ = arrays(np.int64, (6,), elements=st.integers(0, 1))


def close(backend: Any, one: Any, two: Any, scale: float = 1.0) -> None:
    """To a few rounding errors of numbers of that scale."""
    one, two = (np.asarray(v) for v in (one, two))
    atol = 8 * scale * backend.rtol()
    np.testing.assert_allclose(one, two, rtol=8 * backend.rtol(), atol=atol)


def run(backend: Any, loss: Any, x: Any, y: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Unreduced value and gradient."""
    seed = backend.asarray(np.ones(backend.sample_shape(loss, x, options)))
    v, g = value_and_grad(loss)(
        backend.asarray(x), backend.asarray(y), reduction="none", cotangent=seed, **backend.options(options)
    )
    return backend.to_numpy(v), backend.to_numpy(g)


@pytest.mark.only(lambda backend: backend.is_quick)
@property_based
@given(x=rows, y=labels_, shift=st.integers(-64, 64))
def test_a_shift_of_the_logits_changes_nothing(backend: Any, x: Any, y: Any, shift: int) -> None:
    x = np.round(x * 1024) / 1024  # x + shift is exact in float32
    for loss in (cross_entropy, softmax_focal_loss):
        (v, g), (v2, g2) = run(backend, loss, x, y), run(backend, loss, x + shift, y)
        np.testing.assert_allclose(v2, v, rtol=backend.rtol())
        np.testing.assert_allclose(g2, g, rtol=backend.rtol())


@pytest.mark.only(lambda backend: backend.is_quick)
@property_based
@given(x=rows, y=labels_, order=st.permutations(range(3)))
def test_permuted_classes(backend: Any, x: Any, y: Any, order: list[int]) -> None:
    to = np.argsort(order)  # class c moves to the place to[c]
    v, g = run(backend, softmax_focal_loss, x, y)
    v2, g2 = run(backend, softmax_focal_loss, x[:, order], to[y])
    close(backend, v2, v)
    close(backend, g2, g[:, order])


@pytest.mark.only(lambda backend: backend.is_quick)
@property_based
@given(x=rows, y=labels_)
def test_moved_axis(backend: Any, x: Any, y: Any) -> None:
    v, g = run(backend, cross_entropy, x, y)
    v2, g2 = run(backend, cross_entropy, x.T, y, axis=0)
    close(backend, v2, v)
    close(backend, g2.T, g)


@pytest.mark.only(lambda backend: backend.is_quick)
@property_based
@given(x=flats, y=bits_)
def test_two_classes_are_the_sigmoid(backend: Any, x: Any, y: Any) -> None:
    two = np.stack([np.zeros(6), x], axis=-1)
    for soft, flat in (
        (cross_entropy, binary_cross_entropy_with_logits),
        (softmax_focal_loss, sigmoid_focal_loss),
    ):
        (v, g), (v2, g2) = run(backend, soft, two, y), run(backend, flat, x, y)
        # x - 0 is exact: not even conditioning separates them.
        np.testing.assert_allclose(v, v2, rtol=10 * backend.rtol(), atol=1e-37)
        np.testing.assert_allclose(g[:, 1], g2, rtol=10 * backend.rtol(), atol=1e-37)


@pytest.mark.only(lambda backend: backend.is_quick)
@property_based
@given(x=rows, y=labels_, smoothing=st.sampled_from([0.0, 0.1]))
def test_the_rows_of_the_gradient_sum_to_zero(backend: Any, x: Any, y: Any, smoothing: float) -> None:
    for loss in (cross_entropy, softmax_focal_loss):
        _, g = run(backend, loss, x, y, label_smoothing=smoothing)
        np.testing.assert_allclose(g.sum(-1), 0, atol=4 * backend.rtol() * max(1, np.abs(g).max()))


@pytest.mark.only(lambda backend: backend.is_quick)
@property_based
@given(x=rows, y=labels_)
def test_gamma_zero_is_cross_entropy(backend: Any, x: Any, y: Any) -> None:
    (v, g), (v2, g2) = run(backend, softmax_focal_loss, x, y, gamma=0), run(backend, cross_entropy, x, y)
    np.testing.assert_allclose(v, v2, rtol=4 * backend.rtol())
    np.testing.assert_allclose(g, g2, rtol=4 * backend.rtol(), atol=4 * backend.rtol())


@pytest.mark.only(lambda backend: backend.is_quick)
@property_based
@given(x=rows, y=labels_)
def test_epsilon_zero_is_cross_entropy(backend: Any, x: Any, y: Any) -> None:
    for a, b in zip(run(backend, poly_loss, x, y, epsilon=0), run(backend, cross_entropy, x, y), strict=True):
        np.testing.assert_allclose(a, b, rtol=4 * backend.rtol(), atol=4 * backend.rtol())


@pytest.mark.only(lambda backend: backend.is_quick)
@property_based
@given(x=flats, y=bits_)
def test_no_asymmetry_is_the_focal_loss(backend: Any, x: Any, y: Any) -> None:
    options = {"gamma_positive": 1.5, "gamma_negative": 1.5, "margin": 0.0}
    ours, focal = run(backend, asymmetric_loss, x, y, **options), run(backend, sigmoid_focal_loss, x, y, gamma=1.5)
    for a, b in zip(ours, focal, strict=True):
        np.testing.assert_allclose(a, b, rtol=4 * backend.rtol(), atol=1e-37)


@pytest.mark.only(lambda backend: backend.is_quick)
@property_based
@given(x=rows, y=labels_)
def test_a_batch_is_the_sum_of_its_parts(backend: Any, x: Any, y: Any) -> None:
    def total(x: Any, y: Any) -> Any:
        return backend.to_numpy(cross_entropy(backend.asarray(x), backend.asarray(y), reduction="sum"))

    whole = total(x, y)
    close(backend, total(x[:2], y[:2]) + total(x[2:], y[2:]), whole, scale=float(whole))


@pytest.mark.only(lambda backend: backend.is_quick)
@property_based
@given(x=flats, y=bits_)
def test_a_flipped_binary_sample(backend: Any, x: Any, y: Any) -> None:
    """Negating the logit and the label changes the gradient's sign alone."""
    for loss in (binary_cross_entropy_with_logits, sigmoid_focal_loss):
        (v, g), (v2, g2) = run(backend, loss, x, y), run(backend, loss, -x, 1 - y)
        np.testing.assert_allclose(v2, v, rtol=2 * backend.rtol())
        np.testing.assert_allclose(g2, -g, rtol=2 * backend.rtol())


def test_hardest_fraction_with_a_mask(backend: Any) -> None:
    """int(0.29 * 100) is 28, with a mask too: in float32 it would be 29."""
    if backend.library == "jax":
        pytest.skip("JAX has no float64 unless it is switched on")
    x = backend.asarray(np.arange(100.0)[:, None] * np.asarray([[-0.0625, 0.0625]]))
    labels, where = backend.asarray(np.zeros(100, np.int64)), backend.asarray(np.ones(100, bool))
    found, due = (
        backend.to_numpy(cross_entropy(x, labels, reduction=Hardest(fraction=0.29), **more))
        for more in ({"where": where}, {})
    )
    assert float(found) == pytest.approx(float(due), rel=1e-6)
