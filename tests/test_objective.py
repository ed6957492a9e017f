"""objective: second derivatives against 120-digit differences, and both boosters trained with it."""

import copy
import itertools
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference

import arrayloss as al
from arrayloss import objective

MARGINS = np.asarray([0.0, 1e-8, 0.3, 1.0, 1.7, 2.5, 4.0, 9.0, 17.0, 40.0])
X = np.concatenate([MARGINS, -MARGINS[1:]])
ROWS = np.asarray(
    [[0.0, 0.0, 0.0], [1.0, -2.0, 0.5], [4.0, 3.0, -1.0], [30.0, 0.0, 1.0], [0.0, 20.0, -1.0], [-3.0, 5.0, 5.0]]
)
CLASSES = np.asarray([0, 2, 1, 0, 0, 1])
SOFT = np.asarray([[0.2, 0.3, 0.5], [1, 0, 0], [0.9, 0, 0.1], [0.98, 0.01, 0.01], [0, 1, 0], [0, 0.5, 0.5]])
GAMMAS = [0.0, 0.5, 1.0, 2.0, 5.0]


def check(backend: Any, f: Any, family: Any, y: np.ndarray, z: np.ndarray, target: np.ndarray, **options: Any) -> None:
    """y is what f gets, target what the reference gets."""
    _, hessian = f(backend.asarray(y), backend.asarray(z))
    assert hessian.dtype == backend.asarray(z).dtype
    if not backend.has_float64:
        z = np.float64(np.float32(z))
        target = target if target.dtype.kind != "f" else np.float64(np.float32(target))
    rtol = 32 * backend.rtol()
    tiny = 0 if backend.has_float64 else 8 * np.finfo(np.float32).smallest_normal
    # No case is next to where the Hessian changes its sign: every digit counts.
    exact = reference.second(family, z, target, **options)
    np.testing.assert_allclose(backend.to_numpy(hessian), exact, rtol=rtol, atol=tiny)


@pytest.mark.only(lambda backend, gamma: backend.is_quick or gamma == 0.5)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_binary(backend: Any, gamma: float) -> None:
    f = objective(al.sigmoid_focal_loss, gamma=gamma)
    for y in (np.ones_like(X), np.zeros_like(X), np.zeros(X.size, bool)):
        check(backend, f, reference.binary, y, X, y.astype(float), gamma=gamma)


def test_binary_options(backend: Any) -> None:
    options: Any = {"pos_weight": 3.0, "label_smoothing": 0.1}
    y = np.arange(X.size) % 2
    check(
        backend,
        objective(al.binary_cross_entropy_with_logits, **options),
        reference.binary,
        y.astype(float),
        X,
        y,
        **options,
    )
    options = {"gamma": 1.5, "alpha": 0.25}
    check(backend, objective(al.sigmoid_focal_loss, **options), reference.binary, y, X, y, **options)


@pytest.mark.only(lambda backend, gamma: backend.is_quick or gamma == 0.5)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_classes(backend: Any, gamma: float) -> None:
    f = objective(al.softmax_focal_loss, gamma=gamma)
    check(backend, f, reference.categorical, CLASSES.astype(float), ROWS, CLASSES, gamma=gamma)
    check(backend, f, reference.categorical, SOFT, ROWS, SOFT, gamma=gamma)


def test_class_options(backend: Any) -> None:
    weight = np.asarray([1.0, 0.5, 2.0])
    options: Any = {"label_smoothing": 0.1, "class_weight": weight}
    f = objective(al.cross_entropy, label_smoothing=0.1, class_weight=backend.asarray(weight))
    check(backend, f, reference.categorical, CLASSES, ROWS, CLASSES, **options)


def test_the_gradient_is_grads(backend: Any) -> None:
    for focal, y, z in [(al.sigmoid_focal_loss, (X > 0).astype(float), X), (al.softmax_focal_loss, CLASSES, ROWS)]:
        y, z = backend.asarray(y), backend.asarray(z)
        gradient, _ = objective(focal, gamma=3.0)(y, z)
        expected = al.grad(focal)(z, y, gamma=3.0, reduction="sum")
        np.testing.assert_array_equal(backend.to_numpy(gradient), backend.to_numpy(expected))
        assert gradient.dtype == z.dtype


def test_sample_weights_and_what_is_ignored(backend: Any) -> None:
    weight = np.asarray([1.0, 2.0, 0.0, 0.5, 3.0, 1.0])
    classes = CLASSES.copy()
    classes[0] = -100
    for floor in (None, 0.01):
        f = objective(al.cross_entropy, min_hessian=floor)
        plain = f(backend.asarray(CLASSES), backend.asarray(ROWS))
        given = f(backend.asarray(classes), backend.asarray(ROWS), backend.asarray(weight))
        for got, one in zip(given, plain, strict=True):
            expected = backend.to_numpy(one) * weight[:, None]
            expected[0] = 0
            np.testing.assert_allclose(backend.to_numpy(got), expected, rtol=backend.rtol())
        assert not backend.to_numpy(given[1])[[0, 2]].any()
    # Several answers a sample: one weight for all of them.
    g = objective(al.binary_cross_entropy_with_logits)
    bits = (ROWS > 0.2).astype(float)
    plain = g(backend.asarray(bits), backend.asarray(ROWS))
    given = g(backend.asarray(bits), backend.asarray(ROWS), sample_weight=backend.asarray(weight))
    for got, one in zip(given, plain, strict=True):
        np.testing.assert_allclose(backend.to_numpy(got), backend.to_numpy(one) * weight[:, None], rtol=backend.rtol())


@pytest.mark.only(lambda backend: backend.is_quick)
@pytest.mark.parametrize("gamma", [0.0, 1e-3, 0.3, 0.5, 1.0, 2.0, 5.0, 30.0])
def test_any_score(backend: Any, gamma: float) -> None:
    """Finite at any raw score; what is lost is the dtype's own underflow."""
    far = np.asarray([0.0, 1e-30, 5.0, 16.0, 80.0, 103.0, 350.0, 745.0, 800.0, 1e4])
    z = np.concatenate([far, -far])
    f = objective(al.sigmoid_focal_loss, gamma=gamma)
    for y in (np.ones_like(z), np.zeros_like(z), np.full_like(z, 0.3)):
        for part in f(backend.asarray(y), backend.asarray(z)):
            assert np.isfinite(backend.to_numpy(part)).all()
    rows = np.stack([z, -z, np.zeros_like(z)], axis=1)
    h = objective(al.softmax_focal_loss, gamma=gamma)
    for target in (
        np.zeros(z.size),
        np.ones(z.size),
        np.full(rows.shape, 1 / 3),
        np.tile([0.0, 0.5, 0.5], (z.size, 1)),
    ):
        for part in h(backend.asarray(target), backend.asarray(rows)):
            assert np.isfinite(backend.to_numpy(part)).all()


def test_min_hessian() -> None:
    z, y = np.asarray([-5.0, 0.0, 800.0]), np.ones(3)
    exact = objective(al.sigmoid_focal_loss)(y, z)[1]
    assert exact[0] < 0  # not convex
    around = objective(al.sigmoid_focal_loss)(np.ones(2), np.asarray([-2.79, -2.8]))[1]
    assert around[0] > 0 > around[1]
    floored = objective(al.sigmoid_focal_loss, min_hessian=0.05)(y, z)[1]
    np.testing.assert_array_equal(floored, np.maximum(exact, 0.05))


def test_errors() -> None:
    with pytest.raises(TypeError, match="takes a loss"):
        objective(np.sum)
    with pytest.raises(TypeError, match="reduction"):
        objective(al.cross_entropy, reduction="sum")
    for floor in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="min_hessian"):
            objective(al.cross_entropy, min_hessian=floor)
    for of_probabilities, y, x in [
        (al.nll_loss, CLASSES, np.log(np.full((6, 3), 1 / 3))),
        (al.binary_cross_entropy, np.ones(3), np.full(3, 0.5)),
    ]:
        with pytest.raises(TypeError, match="logits"):
            objective(of_probabilities)(y, x)
    with pytest.raises(ValueError, match="whole"):
        objective(al.cross_entropy)(np.asarray([0.5]), np.zeros((1, 3)))
    with pytest.raises(ValueError, match="out of range"):
        objective(al.cross_entropy)(np.asarray([3.0]), np.zeros((1, 3)))
    with pytest.raises(ValueError, match="one for each sample"):
        objective(al.cross_entropy)(CLASSES, ROWS, np.ones(1))


def every_loss() -> dict[str, Any]:
    """Those of the package and of all presets, by their full names."""
    found = {}
    for module in (al, *(getattr(al.compat, name) for name in al.compat.__all__)):
        for name, one in vars(module).items():
            if callable(one) and hasattr(one, "problem") and not name.startswith("_"):
                found[f"{module.__name__}.{name}"] = one
    return found


WITH_SECOND_DERIVATIVES = {
    "arrayloss": "cross_entropy softmax_focal_loss poly_loss generalized_cross_entropy symmetric_cross_entropy "
    "kl_divergence_with_logits binary_cross_entropy_with_logits sigmoid_focal_loss asymmetric_loss",
    "arrayloss.compat.torch": "cross_entropy binary_cross_entropy_with_logits",
    "arrayloss.compat.kornia": "binary_focal_loss_with_logits",
    "arrayloss.compat.onnx": "SoftmaxCrossEntropyLoss",
}


def test_every_loss_has_second_derivatives_or_says_that_it_has_none() -> None:
    """The presets too: of another order of arguments, without a reduction, of probabilities, of blended answers."""
    scores, classes = np.random.default_rng(0).normal(size=(4, 3)), np.asarray([0, 2, 1, 1])
    targets = classes, (scores > 0).astype(float), np.full((4, 3), 1 / 3)
    works = set()
    for name, loss in every_loss().items():
        said = []
        for x, y in itertools.product((scores, al.softmax(scores), al.log_softmax(scores)), targets):
            try:
                gradient, hessian = objective(loss)(y, x)
            except (TypeError, ValueError) as refusal:  # as for a target of another kind as well
                said.append(str(refusal))
            else:
                assert gradient.shape == hessian.shape == (4, 3)
                assert np.isfinite(hessian).all()
                works.add(name)
        refused = [one for one in said if "reduction=" in one or "second derivatives" in one]
        assert bool(refused) != (name in works), (name, said)
    assert works == {f"{module}.{name}" for module, names in WITH_SECOND_DERIVATIVES.items() for name in names.split()}


# --- the boosters -------------------------------------------------------------------------------------------


@pytest.fixture
def datasets() -> Any:
    return pytest.importorskip("sklearn.datasets", reason="scikit-learn, whose data these are, is not installed")


@pytest.fixture
def cancer(datasets: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = datasets.load_breast_cancer(return_X_y=True)
    return x, y


@pytest.fixture
def digits(datasets: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = datasets.load_digits(return_X_y=True)
    return x, y


@pytest.fixture
def xgb() -> Any:
    return pytest.importorskip("xgboost", reason="xgboost is not installed (the extra test-boosters)")


@pytest.fixture
def lgb() -> Any:
    return pytest.importorskip("lightgbm", reason="lightgbm is not installed (the extra test-boosters)")


def times(factor: float, f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` with its Hessian scaled: what the built-in multi-class objectives have."""

    def scaled(y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        gradient, hessian = f(y_true, y_pred, sample_weight)
        return gradient, hessian * np.asarray(factor, hessian.dtype)

    return scaled


XGB = {"max_depth": 3, "nthread": 1, "base_score": 0.5}
LGB: dict[str, Any] = {"verbosity": -1, "num_threads": 1, "deterministic": True, "boost_from_average": False}


def same_trees(a: Any, b: Any) -> None:
    """The same splits; numbers to the 6 digits that a float32 has, for a leaf is a sum of such, which may cancel."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        a, b = list(a.values()), list(b.values())
    if isinstance(a, list):
        for one, other in zip(a, b, strict=True):
            same_trees(one, other)
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-6)
    else:
        assert a == b


def same_xgboost(ours: Any, theirs: Any, data: Any) -> None:
    same_trees(*([json.loads(tree) for tree in m.get_dump(dump_format="json")] for m in (ours, theirs)))
    scores = [m.predict(data, output_margin=True) for m in (ours, theirs)]
    np.testing.assert_allclose(*scores, rtol=1e-5, atol=1e-6)


def same_lightgbm(ours: Any, theirs: Any) -> None:
    same_trees(*(m.dump_model()["tree_info"] for m in (ours, theirs)))


def test_xgboost_logistic_is_the_built_in_one(xgb: Any, cancer: Any) -> None:
    x, y = cancer
    weight = np.random.default_rng(0).random(y.size)
    for w in (None, weight):
        data = xgb.DMatrix(x, y, weight=w)
        params = {**XGB, "objective": "binary:logistic"}
        ours = xgb.train(params, data, 30, obj=objective(al.binary_cross_entropy_with_logits))
        same_xgboost(ours, xgb.train(params, data, 30), data)
        model = xgb.XGBClassifier(
            n_estimators=30, **{**XGB, "n_jobs": 1}, objective=objective(al.binary_cross_entropy_with_logits)
        )
        same_xgboost(model.fit(x, y, sample_weight=w).get_booster(), ours, data)


def test_xgboost_softmax_is_the_built_in_one(xgb: Any, digits: Any) -> None:
    x, y = digits
    data = xgb.DMatrix(x, y)
    params = {**XGB, "objective": "multi:softprob", "num_class": 10}
    twice = times(2, objective(al.cross_entropy))
    ours = xgb.train(params, data, 8, obj=twice)
    same_xgboost(ours, xgb.train(params, data, 8), data)
    model = xgb.XGBClassifier(n_estimators=8, **{**XGB, "n_jobs": 1}, objective=twice).fit(x, y)
    same_xgboost(model.get_booster(), ours, data)


def test_lightgbm_logistic_is_the_built_in_one(lgb: Any, cancer: Any) -> None:
    x, y = cancer
    f = objective(al.binary_cross_entropy_with_logits)
    for w in (None, np.random.default_rng(0).random(y.size)):
        ours, theirs = (lgb.train({**LGB, "objective": o}, lgb.Dataset(x, y, weight=w), 30) for o in (f, "binary"))
        same_lightgbm(ours, theirs)
        np.testing.assert_allclose(*(m.predict(x, raw_score=True) for m in (ours, theirs)), rtol=1e-5, atol=1e-6)
        model = lgb.LGBMClassifier(n_estimators=30, **LGB, objective=f).fit(x, y, sample_weight=w)
        same_lightgbm(model.booster_, theirs)


def test_lightgbm_softmax_is_the_built_in_one(lgb: Any, digits: Any) -> None:
    x, y = digits
    f = times(10 / 9, objective(al.cross_entropy))
    params = {**LGB, "num_class": 10}
    ours, theirs = (lgb.train({**params, "objective": o}, lgb.Dataset(x, y), 8) for o in (f, "multiclass"))
    same_lightgbm(ours, theirs)
    model = lgb.LGBMClassifier(n_estimators=8, **LGB, objective=f).fit(x, y)
    same_lightgbm(model.booster_, theirs)


FOCAL = {"binary": al.sigmoid_focal_loss, "classes": al.softmax_focal_loss}


def mean_loss(z: np.ndarray, y: np.ndarray) -> float:
    loss = FOCAL["binary" if z.ndim == 1 else "classes"]
    assert np.isfinite(z).all()
    return float(loss(z.astype(float), y))


@pytest.mark.parametrize("start", [0.0, 5.0, -5.0, 800.0, -800.0])
@pytest.mark.parametrize("floor", [None, 0.01])
def test_focal_trains_from_any_start(xgb: Any, lgb: Any, cancer: Any, start: float, floor: float | None) -> None:
    x, y = cancer
    f = objective(al.sigmoid_focal_loss, gamma=2.0, min_hessian=floor)
    from_start = np.full(y.size, start)
    data = xgb.DMatrix(x, y, base_margin=from_start)
    z = xgb.train({"max_depth": 3, "nthread": 1}, data, 30, obj=f).predict(data, output_margin=True)
    booster = lgb.train({**LGB, "objective": f}, lgb.Dataset(x, y, init_score=from_start), 30)
    before = mean_loss(from_start, y)
    for after in (mean_loss(z, y), mean_loss(booster.predict(x, raw_score=True) + start, y)):
        if floor is not None or start == 0:
            assert after < (0.8 * before if abs(start) == 800 else 0.1 * before)
        else:
            # Almost all second derivatives are negative or 0: the boosters don't split.
            assert after == pytest.approx(before)


@pytest.mark.parametrize("start", [0.0, 800.0])
def test_focal_of_classes_trains_from_any_start(xgb: Any, lgb: Any, digits: Any, start: float) -> None:
    x, y = digits[0][:600], digits[1][:600]
    f = objective(al.softmax_focal_loss, gamma=2.0, min_hessian=0.01)
    from_start = np.zeros((y.size, 10))
    from_start[:, 3], from_start[:, 4] = start, -start
    data = xgb.DMatrix(x, y)
    data.set_base_margin(from_start)
    z = xgb.train({"max_depth": 3, "nthread": 1, "num_class": 10}, data, 10, obj=f).predict(data, output_margin=True)
    params = {**LGB, "objective": f, "num_class": 10}
    booster = lgb.train(params, lgb.Dataset(x, y, init_score=from_start), 10)
    before = mean_loss(from_start, y)
    for after in (mean_loss(z, y), mean_loss(booster.predict(x, raw_score=True) + from_start, y)):
        assert after < 0.9 * before


def test_what_lightgbm_predicts(lgb: Any, cancer: Any) -> None:
    x, y = cancer
    model = lgb.LGBMClassifier(n_estimators=5, **LGB, objective=objective(al.sigmoid_focal_loss)).fit(x, y)
    with pytest.warns(UserWarning, match="raw scores"):
        scores = model.predict_proba(x)
    np.testing.assert_array_equal(scores, model.booster_.predict(x, raw_score=True))
    assert scores.min() < 0


def test_estimators_that_hold_it_are_pickled_and_cloned(xgb: Any, lgb: Any, cancer: Any) -> None:
    base = pytest.importorskip("sklearn.base", reason="scikit-learn is not installed")
    x, y = cancer
    f = objective(al.sigmoid_focal_loss, gamma=1.0)
    for model in (
        xgb.XGBClassifier(n_estimators=2, objective=f, n_jobs=1),
        lgb.LGBMClassifier(n_estimators=2, objective=f, n_jobs=1, verbosity=-1),
    ):
        fitted = base.clone(model).fit(x, y)
        again = pickle.loads(pickle.dumps(copy.deepcopy(fitted)))
        raw = "output_margin" if isinstance(model, xgb.XGBClassifier) else "raw_score"
        np.testing.assert_array_equal(again.predict(x, **{raw: True}), fitted.predict(x, **{raw: True}))


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (al.poly_loss, {"epsilon": 2.0}),
        (al.poly_loss, {"epsilon": -1.0}),
        (al.generalized_cross_entropy, {"q": 0.7}),
        (al.symmetric_cross_entropy, {}),
        (al.asymmetric_loss, {}),
        (al.asymmetric_loss, {"gamma_positive": 0, "gamma_negative": 2, "margin": 0.2}),
        (al.asymmetric_loss, {"margin": 0}),
    ],
)
def test_it_is_the_derivative_of_the_gradient(loss: Any, options: dict[str, Any]) -> None:
    rows = loss is not al.asymmetric_loss
    z = np.random.default_rng(0).normal(size=(40, 3) if rows else 40) * 2
    y = np.arange(40) % (3 if rows else 2)
    f = objective(loss, **options)
    _, hessian = f(y, z)
    for j in range(3 if rows else 1):
        step = np.zeros_like(z)
        step[..., j : j + 1 if rows else None] = 1e-5
        above, below = f(y, z + step)[0], f(y, z - step)[0]
        slope = (above - below) / 2e-5
        at = np.s_[:, j] if rows else np.s_[:]
        np.testing.assert_allclose(hessian[at], slope[at], rtol=1e-6, atol=1e-9)


def test_the_divergence_bends_as_the_cross_entropy() -> None:
    student, teacher = np.random.default_rng(0).normal(size=(2, 5, 3))
    _, hessian = objective(al.kl_divergence_with_logits)(teacher, student)
    p = al.softmax(student)
    np.testing.assert_allclose(hessian, p * (1 - p), rtol=1e-14)


def test_a_temperature_and_an_exponent_of_each_class() -> None:
    x, y = np.asarray([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5]]), np.asarray([0, 2])
    gradient, hessian = objective(al.cross_entropy, temperature=2.0)(y, x)
    of_half = objective(al.cross_entropy)(y, x / 2)
    np.testing.assert_allclose(gradient, of_half[0] / 2, rtol=1e-14)
    np.testing.assert_allclose(hessian, of_half[1] / 4, rtol=1e-14)
    for one, two in zip(
        objective(al.softmax_focal_loss, gamma=np.asarray([2.0, 2.0, 2.0]))(y, x),
        objective(al.softmax_focal_loss, gamma=2.0)(y, x),
        strict=True,
    ):
        np.testing.assert_allclose(one, two, rtol=1e-13)
