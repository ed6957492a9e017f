"""The divergences: what the contract's table says of two arrays of logits, and students next to their teachers."""

import math
from typing import Any

import numpy as np
import pytest
import reference

from arrayloss import (
    Hardest,
    Mean,
    cross_entropy,
    js_divergence,
    js_divergence_with_logits,
    kl_divergence,
    kl_divergence_with_logits,
    log_softmax,
    softmax,
    value_and_grad,
)

# Eagerly, JAX compiles each operation for each shape.
NOT_EAGER_JAX = pytest.mark.only(lambda backend: backend.name != "jax:cpu")

INF, NAN = math.inf, math.nan
HALF, LOG2 = 0.5, math.log(2)

# (student, teacher, divergence, gradient by the student); None: nan throughout.
SPECIAL = [
    pytest.param([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 0.0, [0.0] * 3, id="the same"),
    pytest.param([1.0, 2.0, 3.0], [-7.0, -6.0, -5.0], 0.0, [0.0] * 3, id="the same but for a constant"),
    pytest.param([0.0, 0.0, -INF], [4.0, 4.0, -INF], 0.0, [0.0] * 3, id="a class masked in both"),
    pytest.param([0.0, 0.0, 0.0], [3.0, -INF, -INF], math.log(3), [-2 / 3, 1 / 3, 1 / 3], id="teacher of one class"),
    pytest.param([0.0, 0.0, 0.0], [INF, 1.0, 2.0], math.log(3), [-2 / 3, 1 / 3, 1 / 3], id="teacher of +inf"),
    pytest.param([0.0, 0.0, -INF], [0.0, 0.0, 0.0], INF, [HALF - 1 / 3, HALF - 1 / 3, -1 / 3], id="student of -inf"),
    pytest.param([INF, 0.0, 0.0], [INF, 0.0, 7.0], 0.0, [0.0] * 3, id="both +inf"),
    pytest.param([INF, 0.0, 0.0], [0.0, INF, 0.0], INF, [1.0, -1.0, 0.0], id="+inf apart"),
    pytest.param([INF, 0.0, 0.0], [0.0, 0.0, -INF], INF, [HALF, -HALF, 0.0], id="student of +inf"),
    pytest.param([1e4, 0.0, 0.0], [-1e4, 0.0, 0.0], 1e4 - LOG2, [1.0, -HALF, -HALF], id="far apart"),
    pytest.param([INF, INF, 0.0], [0.0, 0.0, 0.0], None, None, id="two +inf"),
    pytest.param([0.0, 0.0, 0.0], [INF, INF, 0.0], None, None, id="two +inf of the teacher"),
    pytest.param([-INF] * 3, [0.0, 0.0, 0.0], None, None, id="all -inf"),
    pytest.param([0.0, NAN, 0.0], [0.0, 0.0, 0.0], None, None, id="nan"),
    pytest.param([0.0, 0.0, 0.0], [0.0, 0.0, NAN], None, None, id="nan of the teacher"),
]


def same(actual: Any, expected: Any, rtol: float, message: str) -> None:
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=0, err_msg=message)


@pytest.mark.compiled
def test_special_logits(backend: Any) -> None:
    """All in one call: each leaves the others alone."""
    rows = [p.values for p in SPECIAL]
    x, t = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    for way, (value, gradient) in backend.evaluate(kl_divergence_with_logits, x, t, reduction="none").items():
        for i, p in enumerate(SPECIAL):
            _, _, right, slope = p.values
            same(value[i], NAN if right is None else right, 4 * backend.rtol(), f"{p.id}, {way}")
            if gradient is not None and slope is not None:
                same(gradient[i], slope, 4 * backend.rtol(), f"{p.id}, {way}")
            if gradient is not None and right is None:
                assert np.isnan(gradient[i]).all(), f"{p.id}, {way}: {gradient[i]}"


@NOT_EAGER_JAX
def test_large_log_ratios_do_not_overflow(backend: Any) -> None:
    x, t = np.array([[0.0, 1e27, 0.0], [0.0, 1e38, 1.0]]), np.array([[1e27, 0.0, 0.0], [1e38, 0.0, 1.0]])
    value, gradient = np.array([1e27, 1e38]), np.array([[-1.0, 1.0, 0.0]] * 2)
    backend.agree(kl_divergence_with_logits, x, t, value, gradient, reduction="none")


@pytest.mark.compiled
@pytest.mark.only(lambda backend, how: not backend.compiled or (backend.library == "jax" and how == "where"))
@pytest.mark.parametrize("how", ["where", "sample_weight"])
def test_left_out_samples(backend: Any, how: str) -> None:
    x = np.array([[NAN, 0.0, 1.0], [INF, INF, NAN], [0.0, 0.0, 0.0], [0.5, 1.0, -2.0], [1.0, 0.0, 3.0]])
    t = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [NAN, INF, INF], [1.0, 1.0, -2.0], [0.0, 0.0, 4.0]])
    kept = np.array([False, False, False, True, True])
    value, gradient = np.zeros(5), np.zeros((5, 3))
    value[kept] = reference.value(reference.divergence, x[kept], t[kept])
    gradient[kept] = reference.gradient(reference.divergence, x[kept], t[kept])
    options = {how: kept if how == "where" else kept.astype(float)}
    for reduction, v, g in (("none", value, gradient), ("mean", value.sum() / 2, gradient / 2)):
        ways = backend.agree(
            kl_divergence_with_logits, x, t, v, g, reduction=reduction, rtol=4 * backend.rtol(), **options
        )
        for way, (_, got) in ways.items():
            assert got is None or (got[~kept] == 0).all(), f"exactly zero, {way}"
        if backend.compiled:
            break  # time: "none" has the larger graph


@NOT_EAGER_JAX
@pytest.mark.parametrize("loss", [kl_divergence_with_logits, js_divergence_with_logits], ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("scale", [0.0, 1e3], ids=str)
def test_next_to_the_teacher(backend: Any, loss: Any, scale: float) -> None:
    """Nothing where the rows are equal, and next to nothing where they differ by one unit in the last place."""
    rng = np.random.default_rng(0)
    kind = np.dtype(backend.default).type
    x = (scale + rng.normal(size=(6, 4))).astype(kind)
    t = np.nextafter(x, kind(np.inf) * np.sign(rng.normal(size=x.shape)).astype(kind))
    ratio = 4 * np.finfo(kind).eps * (scale + 4)
    for teacher, most in ((x, 0.0), (t, ratio)):
        for way, (value, g) in backend.evaluate(loss, x.astype(float), teacher.astype(float), reduction="none").items():
            assert ((value >= 0) & (value <= most**2)).all(), way
            assert g is None or (np.abs(g) <= most).all(), way


@NOT_EAGER_JAX
def test_never_negative(backend: Any) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 5)) * 10 ** rng.uniform(-8, 2, (500, 1))
    t = x + rng.normal(size=x.shape) * 10 ** rng.uniform(-9, 2, (500, 1))
    value = backend.to_numpy(kl_divergence_with_logits(backend.asarray(x), backend.asarray(t), reduction="none"))
    assert (value >= 0).all()


@NOT_EAGER_JAX
def test_reductions_axes_and_dtypes(backend: Any) -> None:
    rng = np.random.default_rng(2)
    x, t = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 4))
    x, t = (a.astype(np.float32).astype(float) for a in (x, t))
    weight = np.array([[0.5, 1.0, 2.0, 0.25]])
    given = {"axis": 1, "sample_weight": weight}
    for reduction, reduce in (
        ("mean", reference.mean),
        ("sum", reference.total),
        (Mean(over="all"), reference.over("all")),
        (Hardest(k=3), reference.hardest(3)),
    ):
        value = reference.value(reference.divergence, x, t, reduce=reduce, **given)
        gradient = reference.gradient(reference.divergence, x, t, reduce=reduce, **given)
        backend.agree(
            kl_divergence_with_logits, x, t, value, gradient, reduction=reduction, rtol=8 * backend.rtol(), **given
        )
    for name in backend.floats:
        a, b = backend.asarray(x, name), backend.asarray(t, name)
        value, gradient = value_and_grad(kl_divergence_with_logits)(a, b, axis=-1)
        assert backend.dtype_name(value) == backend.dtype_name(gradient) == name
        wide = kl_divergence_with_logits(a, b, dtype=backend.dtype("float32"))
        assert backend.dtype_name(wide) == "float32"


@NOT_EAGER_JAX
def test_it_is_what_cross_entropy_has_above_the_entropy(backend: Any) -> None:
    rng = np.random.default_rng(3)
    x, t = backend.asarray(rng.normal(size=(6, 4))), backend.asarray(rng.normal(size=(6, 4)))
    q = softmax(t)
    entropy = -(backend.to_numpy(q) * backend.to_numpy(log_softmax(t))).sum(1)
    above = backend.to_numpy(cross_entropy(x, q, reduction="none")) - entropy
    got = backend.to_numpy(kl_divergence_with_logits(x, t, reduction="none"))
    np.testing.assert_allclose(got, above, rtol=100 * backend.rtol())


@pytest.mark.compiled
@NOT_EAGER_JAX
@pytest.mark.only(lambda backend: backend.name != "torch:cpu:compile")
@pytest.mark.autodiff
def test_the_teacher_learns_too(backend: Any) -> None:
    """Next to each other as well: q (log(q / p) - the divergence)."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(4, 3)).astype(np.float32).astype(float)
    for step in (1.0, 1e-3):
        t = (x + step * rng.normal(size=x.shape)).astype(np.float32).astype(float)
        _, got = backend.pullback(
            lambda t, x: kl_divergence_with_logits(x, t, reduction="sum"), backend.asarray(t), backend.asarray(x)
        )
        slope = reference.difference(lambda a, x=x: reference.total(reference.divergence(x, a)), t)
        np.testing.assert_allclose(
            backend.to_numpy(got), slope, rtol=8 * backend.rtol(), atol=8 * backend.rtol() * np.abs(slope).max()
        )


@pytest.mark.compiled
@NOT_EAGER_JAX
@pytest.mark.only(lambda backend: backend.name != "torch:cpu:compile")
@pytest.mark.autodiff
def test_a_derivative_by_the_teacher_is_not_lost_where_its_probability_is_no_normal_number(backend: Any) -> None:
    """The second class's exponential is a normal number of float32; divided by those of the row, it is none."""
    x, t = np.array([[-10.0, 84.0, -47.0]]), np.array([[90.0, 3.0, 89.5]])
    (p,), (q,) = (np.exp(a - a.max()) / np.exp(a - a.max()).sum() for a in (x, t))
    ratio = np.log(q / p)
    _, got = backend.pullback(
        lambda t, x: kl_divergence_with_logits(x, t, reduction="sum"),
        backend.asarray(t, "float32"),
        backend.asarray(x, "float32"),
    )
    tiny = np.finfo(np.float32).tiny
    assert np.exp(-87.0) > tiny > q[1]
    same(backend.to_numpy(got)[0, 1], q[1] * (ratio[1] - (q * ratio).sum()), 2e-5, backend.name)


# (log-probabilities, probabilities, both divergences, their gradients by the log-probabilities and the probabilities).
GIVEN = [
    pytest.param(
        [-LOG2, -LOG2], [HALF, HALF], (0.0, 0.0), ([-HALF] * 2, [0.0] * 2), ([1.0] * 2, [0.0] * 2), id="equal"
    ),
    pytest.param(
        [-LOG2, -LOG2],
        [1.0, 0.0],
        (LOG2, 0.75 * math.log(4 / 3)),
        ([-1.0, 0.0], [0.25 * math.log(2 / 3), LOG2 / 4]),
        ([1 + LOG2, -INF], [HALF * math.log(4 / 3), -INF]),
        id="a class that the target has not",
    ),
    pytest.param(
        [0.0, -INF],
        [HALF, HALF],
        (INF, 0.75 * math.log(4 / 3)),
        ([-HALF, -HALF], [HALF * math.log(4 / 3), 0.0]),
        ([1 - LOG2, INF], [HALF * math.log(2 / 3), LOG2 / 2]),
        id="a class that p has not",
    ),
]


@pytest.mark.compiled
@pytest.mark.autodiff
@pytest.mark.parametrize("which", [0, 1], ids=["kl", "js"])
def test_given_probabilities(backend: Any, which: int) -> None:
    """In one call; the target's gradient too, which is infinite where the divergence is a cliff."""
    loss, rows = (kl_divergence, js_divergence)[which], [p.values for p in GIVEN]
    x, q = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    rtol = 4 * backend.rtol()
    for way, (value, gradient) in backend.evaluate(loss, x, q, reduction="none").items():
        for i, p in enumerate(GIVEN):
            np.testing.assert_allclose(value[i], p.values[2][which], rtol, rtol, err_msg=f"{p.id}, {way}")
            if gradient is not None:
                np.testing.assert_allclose(gradient[i], p.values[3][which], rtol, rtol, err_msg=f"{p.id}, {way}")
    if backend.differentiates:
        _, got = backend.pullback(lambda q, x: loss(x, q, reduction="sum"), backend.asarray(q), backend.asarray(x))
        np.testing.assert_allclose(backend.to_numpy(got), [r[4][which] for r in rows], rtol, rtol)


@pytest.mark.parametrize("loss", [kl_divergence, js_divergence], ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("wrong", [-0.25, NAN, float("inf")])
def test_wrong_probabilities(backend: Any, loss: Any, wrong: float) -> None:
    x, q = backend.asarray(np.log([[0.5, 0.5], [0.25, 0.75]])), np.array([[wrong, 0.5], [0.5, 0.5]])
    if backend.reports_labels:
        with pytest.raises(ValueError, match=r"position \(0,\).*must be finite and not negative"):
            loss(x, backend.asarray(q))
    elif backend.reports_labels is False:
        got = backend.to_numpy(loss(x, backend.asarray(q), reduction="none"))
        assert np.isnan(got).tolist() == [True, False]
    alone = backend.to_numpy(loss(x, backend.asarray(q), where=backend.asarray(np.array([False, True]))))
    assert np.isfinite(alone)


@pytest.mark.parametrize("loss", [kl_divergence_with_logits, js_divergence_with_logits], ids=lambda loss: loss.__name__)
def test_the_hessian_of_equal_rows(loss: Any) -> None:
    """Where log(q / p) is 0 everywhere: diag(p) - p p' by either of the rows, a quarter of it for Jensen-Shannon."""
    torch = pytest.importorskip("torch")
    x = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    p = torch.softmax(x[0], 0)
    due = (torch.diag(p) - torch.outer(p, p)) / (1 if loss is kl_divergence_with_logits else 4)
    for (a, b), sign in (((0, 0), 1), ((0, 1), -1), ((1, 0), -1), ((1, 1), 1)):
        got = torch.autograd.functional.hessian(lambda x, t: loss(x, t, reduction="sum"), (x, x.clone()))[a][b]
        torch.testing.assert_close(got.reshape(3, 3), sign * due)
