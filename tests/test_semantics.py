"""Every row of the contract's table of semantics, value and gradient, on every backend, eager and compiled.

The special samples of one function go through one call together: so each is also shown to leave the others
alone, and a compiler runs once for all of them. Of losses that share the code of a behaviour, one is compiled.
Expected numbers are written out, or come from the decimal reference.
"""

import math
from typing import Any

import numpy as np
import pytest
import reference

import arrayloss
from arrayloss import (
    Mean,
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

# For numbers that each operation makes or doesn't: JAX runs it compiled.
NOT_EAGER_JAX = pytest.mark.only(lambda backend: backend.name != "jax:cpu")
# For numbers that a compiler may lose: torch's, without generated code, has none of its own.
NOT_COMPILED_TORCH = pytest.mark.only(lambda backend: backend.name != "torch:cpu:compile")

INF, NAN = math.inf, math.nan
IGNORED = -100

CATEGORICAL = [cross_entropy, softmax_focal_loss, poly_loss, nll_loss]
BINARY = [binary_cross_entropy_with_logits, sigmoid_focal_loss, asymmetric_loss, binary_cross_entropy]


def names(x: Any) -> str:
    return getattr(x, "__name__", str(x))


def categorical_of(loss: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The reference that stands for a public function, at the function's defaults."""
    if loss is softmax_focal_loss:
        options.setdefault("gamma", 2.0)
    if loss is poly_loss:
        options.setdefault("epsilon", 2.0)
    return reference.categorical, options | ({"log_probs": True} if loss is nll_loss else {})


def binary_of(loss: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
    if loss is sigmoid_focal_loss:
        options.setdefault("gamma", 2.0)
    if loss is asymmetric_loss:
        options |= {"gammas": (1.0, 4.0), "margin": 0.05}
    return reference.binary, options | ({"probs": True} if loss is binary_cross_entropy else {})


# --- categorical, index labels ------------------------------------------------------------------------------

ORDINARY = np.array([[0.5, -1.25, 2.0, 0.75], [3.0, 3.0, 3.0, 3.0], [-40.0, 60.0, 0.0, 1.0], [50.0, 0.0, -1.0, 0.5]])
ORDINARY_LABELS = np.array([2, 1, 0, 0])

# (logits, label, loss, gradient); None: NaN throughout. Where classes have probability 1 or 0 exactly,
# softmax focal loss equals cross-entropy: its factor (1 - p)**gamma is 1 at the label with p = 0, and kills
# nothing but zeros else. So does poly loss: what it adds to the slope is epsilon p.
THIRD, LOG3 = 1 / 3, math.log(3)
SPECIAL = [
    pytest.param([0.0, 0.0, 0.0, -INF], 3, INF, [THIRD, THIRD, THIRD, -1.0], id="-inf at the label"),
    pytest.param([INF, 0.0, 1.0, 2.0], 0, 0.0, [0.0] * 4, id="+inf at the label"),
    pytest.param([INF, 0.0, 1.0, 2.0], 1, INF, [1.0, -1.0, 0.0, 0.0], id="+inf elsewhere"),
    pytest.param([INF, -INF, 1.0, 2.0], 0, 0.0, [0.0] * 4, id="+inf at the label, -inf elsewhere"),
    pytest.param([INF, INF, 1.0, 2.0], 0, None, None, id="two +inf, one the label"),
    pytest.param([INF, INF, 1.0, 2.0], 2, None, None, id="two +inf, neither the label"),
    pytest.param([-INF] * 4, 1, None, None, id="all -inf"),
    pytest.param([0.0, NAN, 1.0, 2.0], 1, None, None, id="NaN at the label"),
    pytest.param([0.0, NAN, 1.0, 2.0], 2, None, None, id="NaN elsewhere"),
    pytest.param([NAN, 0.0, 1.0, 2.0], IGNORED, 0.0, [0.0] * 4, id="ignored, NaN logit"),
    pytest.param([NAN, INF, -INF, INF], IGNORED, 0.0, [0.0] * 4, id="ignored, all sorts of logits"),
    pytest.param([INF] * 4, IGNORED, 0.0, [0.0] * 4, id="ignored, +inf logits"),
    pytest.param([-INF] * 4, IGNORED, 0.0, [0.0] * 4, id="ignored, -inf logits"),
    pytest.param([0.0, 1.0, 2.0, 3.0], IGNORED, 0.0, [0.0] * 4, id="ignored"),
]


def same(actual: Any, expected: Any, rtol: float, message: str) -> None:
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=0, err_msg=message)


# A class left out by -inf, and a row with one class left: the loss of the classes that remain.
MASKED = [
    pytest.param([0.5, -INF, 2.0, 0.75], 2, id="one class left out"),
    pytest.param([-INF, -INF, 1.0, 4.0], 2, id="two classes left out"),
    pytest.param([-INF, 3.0, -INF, -INF], 1, id="one class left"),
]


def of_the_rest(loss: Any, case: Any) -> Any:
    """A row of MASKED as one of SPECIAL, with what the reference says of the remaining classes."""
    of, options = categorical_of(loss)
    row, label = case.values
    kept = np.isfinite(row)
    if kept.sum() == 1:  # of probability 1
        return pytest.param(row, label, 0.0, [0.0] * 4, id=case.id)
    at, index = np.array([row])[:, kept], np.array([kept[:label].sum()])
    slope = np.zeros(4)
    slope[kept] = reference.gradient(of, at, index, **options)[0]
    return pytest.param(row, label, reference.value(of, at, index, **options)[0], slope, id=case.id)


# What an infinity brings about must not hang on a nan, or another infinity, beside it.
@pytest.mark.compiled
@pytest.mark.only(lambda backend, loss: not backend.compiled or loss is not poly_loss)
@pytest.mark.parametrize("infinities", ["both", "positive"])
@pytest.mark.parametrize("loss", [cross_entropy, softmax_focal_loss, poly_loss], ids=names)
def test_special_logits(backend: Any, loss: Any, infinities: str) -> None:
    special = SPECIAL + [of_the_rest(loss, case) for case in MASKED]
    if infinities == "positive":
        special = [p for p in special if all(x != -INF for x in p.values[0])]
    rows = [p.values for p in special]
    logits = np.concatenate([ORDINARY, np.array([r[0] for r in rows])])
    labels = np.concatenate([ORDINARY_LABELS, [r[1] for r in rows]])
    # As many rows in both: compiled once.
    more = 4 + len(SPECIAL) + len(MASKED) - len(labels)
    logits, labels = np.concatenate([logits, np.zeros((more, 4))]), np.concatenate([labels, np.zeros(more, np.int64)])
    of, options = categorical_of(loss)
    rtol = backend.rtol()
    expected = reference.value(of, ORDINARY, ORDINARY_LABELS, **options)
    slope = reference.gradient(of, ORDINARY, ORDINARY_LABELS, **options)
    for way, (value, gradient) in backend.evaluate(loss, logits, labels, reduction="none").items():
        # In float32, exp(-50)**3 underflows; nothing that is a normal number may.
        tiny = float(np.finfo(backend.default).tiny)
        np.testing.assert_allclose(value[:4], expected, rtol=rtol, atol=tiny, err_msg=way)
        if gradient is not None:
            # Index labels: no entry is a difference of nearly equal numbers, each must be right by itself,
            # 5e-20 too.
            np.testing.assert_allclose(gradient[:4], slope, rtol=10 * rtol, atol=tiny, err_msg=way)
        for i, p in enumerate(special, start=4):
            _, _, right, row = p.values
            same(value[i], NAN if right is None else right, rtol, f"{p.id}, {way}")
            if gradient is not None:
                if row is None:
                    assert np.isnan(gradient[i]).any(), f"{p.id}, {way}: {gradient[i]}"
                else:
                    same(gradient[i], row, 10 * rtol, f"{p.id}, {way}")


@pytest.mark.compiled
def test_z_loss_of_an_infinite_logit(backend: Any) -> None:
    """The other classes have probability 0, and so the gradient 0."""
    logits, labels = np.array([[INF, 0.0, 1.0], [0.0, 0.5, 1.0]]), np.array([0, 1])
    for way, (value, gradient) in backend.evaluate(
        cross_entropy, logits, labels, reduction="none", z_loss=0.25
    ).items():
        assert value[0] == INF, way
        assert np.isfinite(value[1]), way
        if gradient is not None:
            assert gradient[0, 1:].tolist() == [0, 0], way
            assert gradient[0, 0] > 1e30, way
            assert np.isfinite(gradient[1]).all(), way


@pytest.mark.compiled
def test_nll_of_special_log_probs(backend: Any) -> None:
    log_probs = np.array([[-1.0, -2.0, -0.5], [-INF, -0.5, -1.0], [-INF, -0.5, -1.0], [NAN, -1.0, -1.0], [NAN] * 3])
    labels = np.array([1, 0, 1, 0, IGNORED])
    value = np.array([2.0, INF, 0.5, NAN, 0.0])
    gradient = -reference.one_hot(labels, 3)
    for way, (v, g) in backend.evaluate(nll_loss, log_probs, labels, reduction="none").items():
        same(v, value, backend.rtol(), way)
        if g is not None:
            # Whether the slope at NaN is NaN is not written down; the others' is.
            same(g[[0, 1, 2, 4]], gradient[[0, 1, 2, 4]], backend.rtol(), way)


# --- categorical, probabilities as targets ------------------------------------------------------------------


@pytest.mark.compiled
@pytest.mark.only(lambda backend, loss: not backend.compiled or loss is cross_entropy)
@pytest.mark.parametrize("loss", [cross_entropy, softmax_focal_loss, poly_loss], ids=names)
def test_a_class_of_target_zero_costs_nothing(backend: Any, loss: Any) -> None:
    logits = np.array(
        [
            [0.5, 1.0, 2.0, -INF],  # log p = -inf where the target is 0
            [INF, 0.0, 1.0, 2.0],  # p = 1 at the target, log p = -inf at all others
            [INF, 0.0, 1.0, 2.0],  # p = 0 where the target is not
            [0.0, NAN, 1.0, 2.0],
            [0.0, 0.0, 0.0, -INF],
            [INF, INF, 0.0, 0.0],
        ]
    )
    target = np.array(
        [
            [0.25, 0.25, 0.5, 0.0],
            [1.0, 0.0, 0.0, 0.0],
            [0.5, 0.5, 0.0, 0.0],
            [1.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 1.0],
            [1.0, 0.0, 0.0, 0.0],
        ]
    )
    of, options = categorical_of(loss)
    value = np.array([0.0, 0.0, INF, NAN, INF, NAN])
    value[0] = reference.value(of, logits[:1, :3], target[:1, :3], **options)[0]
    gradient = np.zeros((6, 4))
    gradient[0, :3] = reference.gradient(of, logits[:1, :3], target[:1, :3], **options)[0]
    gradient[4] = [THIRD, THIRD, THIRD, -1.0]
    for way, (v, g) in backend.evaluate(loss, logits, target, reduction="none").items():
        same(v, value, 2 * backend.rtol(), way)
        if g is not None:
            np.testing.assert_allclose(
                g[[0, 1, 4]], gradient[[0, 1, 4]], rtol=2 * backend.rtol(), atol=backend.rtol(), err_msg=way
            )
            assert g[0, 3] == 0, way
            assert (g[1] == 0).all(), way
            assert np.isfinite(g[2]).all(), way
            assert np.isnan(g[[3, 5]]).any(-1).all(), way
            if loss is cross_entropy:
                same(g[2], [0.5, -0.5, 0, 0], backend.rtol(), way)


@NOT_EAGER_JAX
def test_nll_of_a_class_of_target_zero(backend: Any) -> None:
    log_probs = np.array([[0.0, -INF, -INF], [-0.5, -1.0, -INF], [-INF, -0.5, -1.0]])
    target = np.array([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.5, 0.5, 0.0]])
    value = np.array([0.0, 0.875, INF])
    backend.agree(nll_loss, log_probs, target, value, -target, reduction="none")


@NOT_EAGER_JAX
def test_smoothing_over_a_masked_class_is_infinite(backend: Any) -> None:
    """Smoothing gives every class a share: one of probability 0 costs +inf; the gradient is p - target'."""
    logits, labels = np.array([[0.0, 0.0, -INF]]), np.array([0])
    smooth = np.array([[0.8, 0.1, 0.1]])
    backend.agree(
        cross_entropy,
        logits,
        labels,
        np.array([INF]),
        np.array([[0.5, 0.5, 0.0]]) - smooth,
        label_smoothing=0.3,
        reduction="none",
    )


# --- left out: where, weight 0 ------------------------------------------------------------------------------

POISON = np.array([[NAN, 0.0, 1.0], [INF, INF, NAN], [-INF, -INF, -INF], [0.5, 1.0, -2.0], [1.0, 0.0, 3.0]])
POISON_LABELS = np.array([0, 1, 2, 1, 0])
KEPT = np.array([False, False, False, True, True])


@pytest.mark.compiled
@pytest.mark.only(
    lambda backend, loss, soft, how: (
        not backend.compiled or (loss is cross_entropy and not soft and how != "ignore_index")
    )
)
@pytest.mark.only(lambda soft, how: not (soft and how == "ignore_index"))  # probabilities have no label to ignore
@pytest.mark.parametrize("how", ["where", "sample_weight", "ignore_index"])
@pytest.mark.parametrize("soft", [False, True], ids=["index", "soft"])
@pytest.mark.parametrize("loss", CATEGORICAL, ids=names)
def test_left_out_samples(backend: Any, loss: Any, soft: bool, how: str) -> None:
    target = reference.one_hot(POISON_LABELS, 3) if soft else POISON_LABELS
    options: dict[str, Any] = {
        "where": {"where": KEPT},
        "sample_weight": {"sample_weight": KEPT.astype(float)},
        "ignore_index": {"ignore_index": 7},
    }[how]
    given = np.where(KEPT, POISON_LABELS, 7) if how == "ignore_index" else target
    of, rest = categorical_of(loss)
    logits = POISON if loss is not nll_loss else -np.abs(POISON)
    value, gradient = np.zeros(5), np.zeros((5, 3))
    value[KEPT] = reference.value(of, logits[KEPT], target[KEPT], **rest)
    gradient[KEPT] = reference.gradient(of, logits[KEPT], target[KEPT], **rest)
    for reduction, v, g in (("none", value, gradient), ("mean", value.sum() / 2, gradient / 2)):
        ways = backend.agree(loss, logits, given, v, g, reduction=reduction, rtol=4 * backend.rtol(), **options)
        for way, (_, got) in ways.items():
            assert got is None or (got[~KEPT] == 0).all(), f"exactly zero, {way}"
        if backend.compiled:
            break  # time: "none" has the larger graph


@pytest.mark.compiled
@pytest.mark.only(lambda backend, loss, how: not backend.compiled or (loss is sigmoid_focal_loss and how == "where"))
@pytest.mark.parametrize("how", ["where", "sample_weight", "ignore_index"])
@pytest.mark.parametrize("loss", BINARY, ids=names)
def test_left_out_elements(backend: Any, loss: Any, how: str) -> None:
    logits = np.array([[NAN, 0.25, INF], [-INF, 0.5, 0.75]])
    kept = np.isfinite(logits)
    labels = np.array([[1, 1, 0], [1, 0, 1]])
    options: dict[str, Any] = {
        "where": {"where": kept},
        "sample_weight": {"sample_weight": kept.astype(float)},
        "ignore_index": {"ignore_index": -1},
    }[how]
    given = np.where(kept, labels, -1) if how == "ignore_index" else labels
    of, rest = binary_of(loss)
    value, gradient = np.zeros((2, 3)), np.zeros((2, 3))
    value[kept] = reference.value(of, logits[kept], labels[kept], **rest)
    gradient[kept] = reference.gradient(of, logits[kept], labels[kept], **rest)
    for reduction, v, g in (("none", value, gradient), ("mean", value.sum() / 3, gradient / 3)):
        ways = backend.agree(loss, logits, given, v, g, reduction=reduction, rtol=2 * backend.rtol(), **options)
        for way, (_, got) in ways.items():
            assert got is None or (got[~kept] == 0).all(), f"exactly zero, {way}"
        if backend.compiled:
            break  # time: "none" has the larger graph


@pytest.mark.compiled
def test_a_left_out_label_may_be_anything(backend: Any) -> None:
    """A sample that does not count is not read: its label may lie outside the classes."""
    logits, labels = np.array([[1.0, 2.0], [3.0, 0.0]]), np.array([1, 999])
    value = np.array([math.log1p(math.exp(-1)), 0])
    p = 1 / (1 + math.exp(1))
    gradient = np.array([[p, -p], [0, 0]])
    given = {"where": np.array([True, False]), "reduction": "none"}
    backend.agree(cross_entropy, logits, labels, value, gradient, rtol=3 * backend.rtol(), **given)


# --- nothing left -------------------------------------------------------------------------------------------


@pytest.mark.compiled
@pytest.mark.only(
    lambda backend, loss, reduction: not backend.compiled or (loss is cross_entropy and reduction == "mean")
)
@pytest.mark.parametrize("loss", [cross_entropy, binary_cross_entropy_with_logits], ids=names)
@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("none", [0.0, 0.0]), ("sum", 0.0), ("mean", NAN), (Mean(empty="zero"), 0.0), (Mean(over="valid"), NAN)],
    ids=["none", "sum", "mean", "empty=zero", "over=valid"],
)
def test_all_samples_ignored(backend: Any, loss: Any, reduction: Any, expected: Any) -> None:
    if loss is cross_entropy:
        logits, target, options = np.array([[1.0, 2.0], [NAN, INF]]), np.array([IGNORED, IGNORED]), {}
    else:
        logits, target, options = np.array([1.0, NAN]), np.array([1, 0]), {"where": np.array([False, False])}
    for way, (value, gradient) in backend.evaluate(loss, logits, target, reduction=reduction, **options).items():
        same(value, expected, 0, way)
        assert gradient is None or (gradient == 0).all(), f"{way}: {gradient}"


@pytest.mark.parametrize("loss", [cross_entropy, binary_cross_entropy_with_logits], ids=names)
@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("none", 0), ("sum", 0.0), ("mean", NAN), (Mean(empty="zero"), 0.0)],
    ids=["none", "sum", "mean", "empty=zero"],
)
def test_empty_batch(backend: Any, loss: Any, reduction: Any, expected: Any) -> None:
    shape = (0, 3) if loss is cross_entropy else (0,)
    target = np.zeros((0,), dtype=np.int64)
    for way, (value, gradient) in backend.evaluate(loss, np.zeros(shape), target, reduction=reduction).items():
        if reduction == "none":
            assert value.shape == (0,), way
        else:
            same(value, expected, 0, way)
        assert gradient is None or gradient.shape == shape, way


# --- labels out of range ------------------------------------------------------------------------------------


def outcome(backend: Any, loss: Any, logits: Any, target: Any) -> tuple[dict[str, Any], str]:
    """The results, or the message of the ValueError, whichever this backend owes for a label out of range."""
    try:
        got = backend.evaluate(loss, logits, target, reduction="none")
    except ValueError as error:
        if backend.reports_labels is False:
            raise
        return {}, str(error)
    assert backend.reports_labels is not True, "no ValueError"
    return got, ""


@pytest.mark.compiled
def test_special_logits_of_asymmetric_loss(backend: Any) -> None:
    """A wrong answer 0 costs no more than p = 1 does, -log(margin) with its factor, where nothing moves any more."""
    of, options = binary_of(asymmetric_loss)
    under = math.log(0.05 / 0.95)
    finite = np.array([0.3, -2.0, -2.0, 2.0, 30.0, -30.0, under - 1e-3, under + 1e-3, under + 1e-3])
    labels = np.array([1.0, 1, 0, 0, 0, 1, 0, 0, 1])
    most = -(0.95**4) * math.log(0.05)
    value = np.concatenate([reference.value(of, finite, labels, **options), [0, most, INF, 0, NAN, NAN, most, 0]])
    slope = np.concatenate([reference.gradient(of, finite, labels, **options), [0, 0, -1, 0, NAN, NAN, 0, 0]])
    logits = np.concatenate([finite, INFINITE, [1e4, -1e4]])
    target = np.concatenate([labels, INFINITE_TARGET, [0.0, 0.0]])
    for way, (v, g) in backend.evaluate(asymmetric_loss, logits, target, reduction="none").items():
        # Next to the margin the loss is (p - m)**5: what is left of p - m has lost three digits.
        np.testing.assert_allclose(v, value, rtol=8 * backend.rtol(), atol=1e-4 * backend.rtol(), err_msg=way)
        if g is not None:
            np.testing.assert_allclose(g, slope, rtol=8 * backend.rtol(), atol=1e-4 * backend.rtol(), err_msg=way)


@NOT_EAGER_JAX
def test_at_the_margin(backend: Any) -> None:
    """p = m exactly: the end of what costs nothing, and pulls nothing, even without a power."""
    for gamma in (0.0, 1.0):
        backend.agree(
            asymmetric_loss,
            np.zeros(2),
            np.array([0.0, 1.0]),
            np.array([0.0, math.log(2)]),
            np.array([0.0, -0.5]),
            gamma_positive=0.0,
            gamma_negative=gamma,
            margin=0.5,
            reduction="none",
        )


@pytest.mark.compiled
@pytest.mark.parametrize("bad", [3, -1, -4, 1000])
def test_label_out_of_range(backend: Any, bad: int) -> None:
    """-1 must not wrap to the last class, 3 must not read the next row."""
    logits = np.array([[0.5, 1.0, -1.0], [2.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    labels = np.array([0, bad, 2])
    for loss in CATEGORICAL if not backend.compiled else [cross_entropy]:
        got, error = outcome(backend, loss, logits, labels)
        if error:
            assert str(bad) in error
            assert "3" in error
        for way, (value, gradient) in got.items():
            np.testing.assert_array_equal(np.isnan(value), [False, True, False], err_msg=way)
            if gradient is not None:
                assert np.isfinite(gradient[[0, 2]]).all(), way


@pytest.mark.compiled
@pytest.mark.parametrize(("bad", "dtype"), [(2, "int64"), (-1, "int64"), (1.5, None), (-0.25, None)])
def test_binary_target_out_of_range(backend: Any, bad: float, dtype: str | None) -> None:
    logits, target = np.array([0.5, -1.0, 2.0]), np.array([1, bad, 0], dtype=dtype)
    for loss in (sigmoid_focal_loss,) if backend.compiled else (binary_cross_entropy_with_logits, sigmoid_focal_loss):
        got, error = outcome(backend, loss, logits, target)
        if error:
            assert str(bad) in error
        for way, (value, _) in got.items():
            np.testing.assert_array_equal(np.isnan(value), [False, True, False], err_msg=way)


@pytest.mark.compiled
@NOT_COMPILED_TORCH
@pytest.mark.only(lambda backend: backend.reports_labels is False)
def test_a_label_out_of_range_makes_the_mean_nan(backend: Any) -> None:
    x, y = backend.asarray([[0.5, 1.0], [2.0, 0.0]]), backend.asarray([0, 2])
    assert np.isnan(backend.to_numpy(backend.jit(cross_entropy)(x, y)))


@pytest.mark.compiled
def test_a_narrow_label_is_not_taken_for_the_ignored_one(backend: Any) -> None:
    """-100 wraps to 156 in uint8 (torch and JAX compare it so); class 156 is a class."""
    logits = np.zeros((2, 200))
    logits[1, 156] = 1.0
    labels = np.array([156, 155], dtype=np.uint8)
    value = math.log(200) * np.ones(2)
    value[1] = math.log(199 + math.e)
    got = backend.jit(lambda x, y: cross_entropy(x, y, reduction="none"))(
        backend.asarray(logits), backend.asarray(labels)
    )
    same(backend.to_numpy(got), value, backend.rtol(), "")


def test_more_classes_than_the_label_type_counts(backend: Any) -> None:
    """200 classes do not fit int8: comparing the label with 200 in its own type would."""
    logits = np.zeros((2, 200))
    got = backend.jit(lambda x, y: cross_entropy(x, y, reduction="none"))(
        backend.asarray(logits), backend.asarray(np.array([127, -100], dtype=np.int8))
    )
    same(backend.to_numpy(got), [math.log(200), 0.0], backend.rtol(), "")


# --- binary -------------------------------------------------------------------------------------------------

FINITE = np.array([0.3, -2.0, 0.0, 0.0, 30.0, -30.0, 30.0, -30.0, 1e-8, -1e-8])
FINITE_TARGET = np.array([1.0, 1, 0, 1, 1, 0, 0, 1, 0, 1])
INFINITE = np.array([INF, INF, -INF, -INF, NAN, NAN])
INFINITE_TARGET = np.array([1.0, 0, 1, 0, 1, 0])
INFINITE_VALUE = np.array([0.0, INF, INF, 0.0, NAN, NAN])
INFINITE_SLOPE = np.array([0.0, 1.0, -1.0, 0.0, NAN, NAN])


@pytest.mark.compiled
@pytest.mark.only(lambda backend, kind: not backend.compiled or kind == "float")
@pytest.mark.parametrize("kind", ["bool", "int64", "float"])
@pytest.mark.parametrize("loss", [binary_cross_entropy_with_logits, sigmoid_focal_loss], ids=names)
def test_special_binary_logits(backend: Any, loss: Any, kind: str) -> None:
    of, options = binary_of(loss)
    logits = np.concatenate([FINITE, INFINITE])
    target = np.concatenate([FINITE_TARGET, INFINITE_TARGET]).astype(kind)
    value = np.concatenate([reference.value(of, FINITE, FINITE_TARGET, **options), INFINITE_VALUE])
    slope = np.concatenate([reference.gradient(of, FINITE, FINITE_TARGET, **options), INFINITE_SLOPE])
    for way, (v, g) in backend.evaluate(loss, logits, target, reduction="none").items():
        same(v, value, 4 * backend.rtol(), way)
        if g is not None:
            same(g, slope, 4 * backend.rtol(), way)


@NOT_EAGER_JAX
def test_a_logit_of_exactly_zero(backend: Any) -> None:
    """sigmoid(0) - y is 0.5 - y: no kink from max(x, 0) or |x|."""
    target = np.array([0.0, 1.0, 0.25, 0.5])
    value, slope = np.full(4, math.log(2)), 0.5 - target
    backend.agree(binary_cross_entropy_with_logits, np.zeros(4), target, value, slope, reduction="none")
    backend.agree(binary_cross_entropy_with_logits, -np.zeros(4), target, value, slope, reduction="none")


@pytest.mark.compiled
@NOT_EAGER_JAX
@pytest.mark.only(lambda backend, gamma: not backend.compiled or gamma == 0.5)  # the hardest
@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 5])
def test_focal_at_saturation(backend: Any, gamma: float) -> None:
    """(1 - p)**(gamma - 1) of p = 1 is a pole for gamma < 1; the true derivative is 0 there."""
    logits = np.array([INF, -INF, 1e4, -1e4, 1e4, -1e4, 0.0, 5.0])
    target = np.array([1, 0, 1, 0, 0, 1, 1, 1])
    # At 1e4, wrong: p is 0 to the last digit, the loss the logit itself, the slope 1 and -1.
    value = np.array([0.0, 0.0, 0.0, 0.0, 1e4, 1e4, 0.0, 0.0])
    slope = np.array([0.0, 0.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.0])
    value[6:] = reference.value(reference.binary, logits[6:], target[6:], gamma=gamma)
    slope[6:] = reference.gradient(reference.binary, logits[6:], target[6:], gamma=gamma)
    for way, (v, g) in backend.evaluate(sigmoid_focal_loss, logits, target, reduction="none", gamma=gamma).items():
        same(v, value, 10 * backend.rtol(), way)
        if g is not None:
            same(g, slope, 10 * backend.rtol(), way)
    two = np.stack([np.zeros(6), logits[2:]], axis=-1)
    for way, (v, g) in backend.evaluate(softmax_focal_loss, two, target[2:], reduction="none", gamma=gamma).items():
        same(v, value[2:], 20 * backend.rtol(), way)
        if g is not None:
            same(g[:, 1], slope[2:], 20 * backend.rtol(), way)


@pytest.mark.compiled
def test_special_probabilities(backend: Any) -> None:
    probs = np.array([0.25, 0.5, 1.0, 0.0, 0.0, 1.0, NAN, 1e-30, 1.0])
    target = np.array([1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.5])
    value = np.array([math.log(4), math.log(2), 0, 0, INF, INF, NAN, 30 * math.log(10), INF])
    slope = np.array([-4.0, 2.0, -1.0, 1.0])
    for way, (v, g) in backend.evaluate(binary_cross_entropy, probs, target, reduction="none").items():
        same(v, value, backend.rtol(), way)
        if g is not None:
            same(g[:4], slope, backend.rtol(), way)
            same(g[7], -1e30, backend.rtol(), way)
            # Where the loss is +inf the slope may be infinite, but it is not undefined.
            assert not np.isnan(g[4:6]).any(), f"{way}: {g}"


# --- nothing is lost ----------------------------------------------------------------------------------------


@pytest.mark.compiled
@NOT_EAGER_JAX
@NOT_COMPILED_TORCH
@pytest.mark.parametrize("soft", [False, True], ids=["index", "soft"])
def test_a_small_loss_is_not_lost(backend: Any, soft: bool) -> None:
    """In float32, F.cross_entropy returns 0 from a margin of 16.75; the loss is exp(-margin), normal up to 87."""
    margins = np.array([5.0, 16.75, 20.0, 50.0, 80.0, 87.0])
    small, p = np.log1p(np.exp(-margins)), 1 / (1 + np.exp(margins))
    logits = backend.asarray(np.stack([margins, np.zeros(6)], axis=1), "float32")
    target = backend.asarray(np.eye(2)[[0] * 6], "float32") if soft else np.zeros(6, np.int64)
    slope = np.stack([-p, p], axis=1)
    for way, (value, gradient) in backend.evaluate(cross_entropy, logits, target, reduction="none").items():
        # Section 4's k is the margin: 87 units in the last place are 5e-6 at most.
        same(value, small, 1e-5, way)
        if gradient is not None:
            same(gradient, slope, 1e-5, way)


@pytest.mark.compiled
@NOT_EAGER_JAX
@NOT_COMPILED_TORCH
def test_large_logits_do_not_overflow(backend: Any) -> None:
    logits = np.array([[1e4, 0.0, -1e4], [3e38, 0.0, 1.0], [-3e38, 0.0, 0.0]])
    value = np.array([1e4, 0.0, 3e38])
    gradient = np.array([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0], [-1.0, 0.5, 0.5]])
    labels = np.array([1, 0, 0])
    for loss in (cross_entropy,) if backend.compiled else (cross_entropy, softmax_focal_loss):
        backend.agree(loss, logits, labels, value, gradient, reduction="none")


# --- activations --------------------------------------------------------------------------------------------


@pytest.mark.compiled
@NOT_EAGER_JAX
def test_softmax_family(backend: Any) -> None:
    x = np.array(
        [
            [0.5, -1.25, 2.0],
            [80.0, 0.0, -3.0],  # exp(-83) is still a normal float32
            [-INF, 0.0, 0.0],
            [INF, 0.0, 1.0],
            [INF, INF, 0.0],
            [-INF, -INF, -INF],
            [NAN, 0.0, 1.0],
            [1e4, 1e4, -1e4],
        ]
    )
    finite = x[:2]
    with reference.localcontext(reference.CONTEXT):
        e = reference._exp(reference.exact(finite))
        lse = np.asarray(reference._ln(e.sum(-1)), dtype=object)
        log_probs = np.array(reference.exact(finite) - lse[:, None], dtype=float)
        probs = np.array(e / e.sum(-1)[:, None], dtype=float)
    nan3 = [NAN] * 3
    half = math.log(0.5)
    probs = np.array([*probs, [0, 0.5, 0.5], [1, 0, 0], nan3, nan3, nan3, [0.5, 0.5, 0]])
    log_probs = np.array([*log_probs, [-INF, half, half], [0, -INF, -INF], nan3, nan3, nan3, [half, half, half - 2e4]])
    rtol = 5 * backend.rtol()
    nans = np.isnan(probs[:, 0])
    for f, expected in ((arrayloss.softmax, probs), (arrayloss.log_softmax, log_probs)):
        for axis in (-1, 0):
            given = backend.asarray(x if axis == -1 else x.T)
            out = backend.to_numpy(backend.jit(lambda x, f=f, axis=axis: f(x, axis=axis))(given))
            out = out if axis == -1 else out.T
            same(out[~nans], expected[~nans], rtol, f.__name__)
            assert np.isnan(out[nans]).any(-1).all(), f.__name__
            if backend.compiled:
                break
    expected = np.array([*lse, math.log(2), INF, INF, -INF, NAN, 1e4 + math.log(2)], dtype=float)
    out = backend.to_numpy(backend.jit(arrayloss.logsumexp)(backend.asarray(x)))
    # logsumexp of an empty set is -inf, and of two +inf is +inf, as in SciPy, torch and JAX: no quotient is
    # taken.
    same(out, expected, rtol, "logsumexp")


@pytest.mark.compiled
@NOT_EAGER_JAX
def test_where_leaves_classes_out(backend: Any) -> None:
    x = np.array([[1.0, 2.0, 3.0, 4.0], [NAN, 0.0, 0.0, INF]])
    kept = np.array([[True, False, True, False], [False, True, True, False]])
    args = backend.asarray(x), backend.asarray(kept)
    a = 1 / (1 + math.exp(2))
    rtol = 5 * backend.rtol()

    def call(f: Any) -> np.ndarray:
        return backend.to_numpy(backend.jit(lambda x, w: f(x, where=w))(*args))

    same(call(arrayloss.softmax), [[a, 0, 1 - a, 0], [0, 0.5, 0.5, 0]], rtol, "softmax")
    half = math.log(0.5)
    log_probs = [[math.log(a), -INF, math.log(a) + 2, -INF], [-INF, half, half, -INF]]
    same(call(arrayloss.log_softmax), log_probs, rtol, "log_softmax")
    same(call(arrayloss.logsumexp), [3 + math.log1p(math.exp(-2)), -half], rtol, "logsumexp")


@pytest.mark.compiled
@NOT_EAGER_JAX
def test_sigmoid_family(backend: Any) -> None:
    x = np.array([0.0, 0.5, -0.5, 40.0, -80.0, INF, -INF, NAN])
    s = np.array([1 / (1 + math.exp(-v)) for v in x])
    log_s = np.array([-math.log1p(math.exp(-v)) if v != -INF else -INF for v in x])
    same(backend.to_numpy(backend.jit(arrayloss.sigmoid)(backend.asarray(x))), s, 2 * backend.rtol(), "sigmoid")
    got = backend.to_numpy(backend.jit(arrayloss.log_sigmoid)(backend.asarray(x)))
    same(got, log_s, 2 * backend.rtol(), "log_sigmoid")


@pytest.mark.compiled
@NOT_EAGER_JAX
@pytest.mark.autodiff
def test_activations_differentiate(backend: Any) -> None:
    x = np.array([[0.5, -1.25, 2.0], [-INF, 0.0, 0.0], [0.0, 0.0, 0.0]])
    v = np.array([[1.0, -2.0, 0.5], [0.0, 1.0, 3.0], [1.0, 0.0, 0.0]])
    e = np.exp(x)
    p = e / e.sum(-1, keepdims=True)
    slopes = {
        arrayloss.softmax: p * (v - (p * v).sum(-1, keepdims=True)),
        arrayloss.log_softmax: v - p * v.sum(-1, keepdims=True),
        arrayloss.sigmoid: v / (1 + e) * (e / (1 + e)),
        arrayloss.log_sigmoid: v / (1 + e),
    }
    for f, expected in slopes.items():
        _, got = backend.pullback(f, backend.asarray(x), cotangent=backend.asarray(v))
        rtol = 4 * backend.rtol()
        np.testing.assert_allclose(backend.to_numpy(got), expected, rtol=rtol, atol=rtol, err_msg=f.__name__)
    _, got = backend.pullback(arrayloss.logsumexp, backend.asarray(x), cotangent=backend.asarray([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(backend.to_numpy(got), p * np.array([[1.0], [2.0], [3.0]]), rtol=4 * backend.rtol())


# --- the result, the mean -----------------------------------------------------------------------------------


@pytest.mark.compiled
def test_mean_is_the_weighted_mean(backend: Any) -> None:
    logits = np.array([[0.5, -1.25, 2.0], [1.0, 0.0, 0.5], [0.0, 3.0, -1.0]])
    labels, weight, classes = np.array([2, 0, 1]), np.array([1.0, 0.5, 2.0]), np.array([1.0, 3.0, 0.25])
    given = {"sample_weight": weight, "class_weight": classes, "label_smoothing": 0.125}
    value = reference.value(reference.categorical, logits, labels, reduce=reference.mean, **given)
    gradient = reference.gradient(reference.categorical, logits, labels, reduce=reference.mean, **given)
    for target in (labels,) if backend.compiled else (labels, reference.one_hot(labels, 3)):
        backend.agree(cross_entropy, logits, target, value, gradient, rtol=4 * backend.rtol(), **given)


@pytest.mark.only(lambda backend: backend.library not in ("jax", "dask"))  # whose arrays can't be written to
@pytest.mark.parametrize("loss", [*CATEGORICAL, *BINARY], ids=names)
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_inputs_are_never_written_to(backend: Any, loss: Any, reduction: Any) -> None:
    rng = np.random.default_rng(0)
    logits = rng.uniform(0.1, 0.9, (4, 3))
    categorical = loss in CATEGORICAL
    target = np.array([0, 2, -100, 1]) if categorical else (logits > 0.5).astype(np.int64)
    weight = np.array([1.0, 0.0, 2.0, 1.0]) if categorical else np.ones((4, 3))
    where = np.array([True, True, True, False]) if categorical else logits > 0.2
    given = [backend.asarray(a) for a in (logits, target, weight, where)]
    if backend.library == "numpy":
        for a in given:
            a.flags.writeable = False  # an attempt to write would raise
    extra = {"cotangent": backend.asarray(np.ones(weight.shape))} if reduction == "none" else {}
    options = {"sample_weight": given[2], "where": given[3], "reduction": reduction}
    copies = [np.array(backend.to_numpy(a)) for a in given]
    loss(*given[:2], **options)
    value_and_grad(loss)(*given[:2], **options, **extra)
    for a, before in zip(given, copies, strict=True):
        np.testing.assert_array_equal(backend.to_numpy(a), before)


@NOT_EAGER_JAX
def test_a_soft_label_next_to_a_hard_one(backend: Any) -> None:
    # 1e-12 of the answer 1 is all of the loss where 0 is as sure as that.
    x, y = np.asarray([-60.0, 60.0, -60.0]), np.asarray([1e-12, 1.0, 0.0])
    gradient = np.asarray([-1e-12, -np.exp(-60.0), np.exp(-60.0)])
    loss, rtol = arrayloss.binary_cross_entropy_with_logits, 8 * backend.rtol()
    backend.agree(loss, x, y, 6e-11, gradient, rtol=rtol, reduction="sum")
