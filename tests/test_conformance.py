"""The suite tests itself: it passes what is right, and a planted fault makes the command fail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import broken
import numpy as np
import pytest

import arrayloss
from arrayloss.testing import FORMATS, Case, Exact, Measurement, backends, measure, spread
from conformance import budget, hunt, plan, real, runner
from conformance.__main__ import main
from conformance.backends import arrayloss as package
from conformance.cases import DIVERGENCES, FUNCTIONS, SLOW, TRANSFORMS, cases
from conformance.oracle import exact
from conformance.peers import better
from conformance.runner import Result, Selection, Spreads

ARGUMENTS = ["--backend", "numpy", "--dtype", "float32", "--function", "cross_entropy"]
FAMILIES = ["margins", "soft", "weights"]
cross_entropy, value_and_grad = arrayloss.cross_entropy, arrayloss.value_and_grad


def wrong_sign(loss: Any) -> Any:
    """value_and_grad, but for the sign of the gradient."""

    def both(*arrays: Any, **options: Any) -> Any:
        value, gradient = value_and_grad(loss)(*arrays, **options)
        return value, -gradient

    return both


def unweighted(logits: Any, target: Any, *, class_weight: Any = None, **options: Any) -> Any:
    return cross_entropy(logits, target, **options)


def shifted(logits: Any, target: Any, *, axis: int = -1, **options: Any) -> Any:
    if target.dtype.kind == "i":
        target = (target + 1) % logits.shape[axis]
    return cross_entropy(logits, target, axis=axis, **options)


# The name of the package's that is replaced, by what, and the family that shows it.
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "sign of the gradient": ({"value_and_grad": wrong_sign}, "margins"),
    "missing weight": ({"cross_entropy": unweighted, "value_and_grad": None}, "weights"),
    "naive": ({"cross_entropy": broken.cross_entropy, "value_and_grad": None}, "margins"),
    "shifted label": ({"cross_entropy": shifted, "value_and_grad": None}, "margins"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_right_passes(family: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ARGUMENTS, "--family", family]) == 0
    assert "FAIL" not in capsys.readouterr().out


def test_the_fault_is_all_that_is_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrayloss, "cross_entropy", lambda *arrays, **options: cross_entropy(*arrays, **options))
    monkeypatch.setattr(arrayloss, "value_and_grad", None)
    assert main([*ARGUMENTS, "--family", "margins"]) == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_fails_the_command(
    fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced, family = FAULTS[fault]
    for name, wrong in replaced.items():
        monkeypatch.setattr(arrayloss, name, wrong)
    assert main([*ARGUMENTS, "--family", family]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_nothing_run_is_a_failure() -> None:
    assert main([*ARGUMENTS, "--family", "probabilities"]) == 1


# ---------------------------------------------------------------- the measures themselves

EPSILON, TINY = FORMATS["float32"].epsilon, FORMATS["float32"].tiny
LEAST = 2.0 ** FORMATS["float32"].subnormal_exponent


def due(*values: float, scale: float | None = None) -> Exact:
    high = np.asarray(values)
    return Exact(high, np.zeros_like(high), np.abs(high) if scale is None else np.full_like(high, scale))


def measured(got: float, exact: Exact, flushable: float = 0.0) -> Measurement:
    return measure(np.asarray([got]), exact, "float32", 4.0, np.zeros(()), flushable=flushable)


@pytest.mark.parametrize(
    ("got", "exact", "ulp"),
    [
        (1 + EPSILON, 1.0, 1.0),
        (1 - EPSILON / 2, 1.0, 0.5),  # the unit is that of the exact number's binade, on either side of its edge
        (1.0, 1 - EPSILON / 2, 1.0),
        (-3 - 2 * EPSILON, -3.0, 1.0),
        (TINY - LEAST, TINY, 1.0),
        (3 * LEAST, 5 * LEAST, 2.0),  # below the smallest normal the unit stays the same
        (2 * LEAST, 0.0, 2.0),
        (0.0, 0.0, 0.0),
    ],
)
def test_an_error_is_in_units_of_the_exact_number(got: float, exact: float, ulp: float) -> None:
    assert measured(got, due(exact)).worst == ulp


def test_what_float64_cannot_hold_of_the_exact_number_counts() -> None:
    exact = Exact(np.ones(1), np.full(1, EPSILON / 4), np.ones(1))
    assert measured(1.0, exact).worst == 0.25


def test_a_difference_is_measured_by_its_larger_term() -> None:
    assert measured(EPSILON, due(0.0, scale=1.0)).worst == 1


@pytest.mark.parametrize(
    ("got", "exact", "fault"),
    [
        (0.0, TINY, "lost"),
        (0.0, 1.0, "lost"),
        (0.0, TINY - LEAST, "flushed"),
        (np.nan, 1.0, "spurious"),
        (np.inf, FORMATS["float32"].largest / 2, "spurious"),
        (1.0, np.nan, "missing"),
        (-np.inf, np.inf, "missing"),
        (5.0, 1.0, "over"),
    ],
)
def test_each_fault_is_counted_as_what_it_is(got: float, exact: float, fault: str) -> None:
    found = measured(got, due(exact))
    # What is lost is over budget too.
    assert {name for name in ("lost", "flushed", "spurious", "missing") if getattr(found, name)} == {fault} - {"over"}
    assert found.over == (fault in ("lost", "over"))


@pytest.mark.parametrize(
    ("got", "exact"),
    [(np.nan, np.nan), (np.inf, np.inf), (np.inf, FORMATS["float32"].largest * (1 + EPSILON)), (LEAST, 0.0)],
)
def test_what_is_due_is_no_fault(got: float, exact: float) -> None:
    found = measured(got, due(exact))
    assert found.lost + found.flushed + found.spurious + found.missing + found.over == 0


def test_exponentials_below_the_smallest_normal_number_may_be_missing() -> None:
    assert measured(TINY / 2, due(TINY * 0.75)).flushed == 1
    # Of a normal number none, unless the formula multiplies what was flushed, and no more than that.
    for got, number, magnified, flushed in (
        (0.0, TINY * 1.5, 1, 0),
        (0.0, TINY * 1.5, 2, 1),
        (0.0, TINY * 2.5, 2, 0),
        (63 * TINY, 64 * TINY, 2, 0),
        (63 * TINY, 64 * TINY, 100, 1),
        (61 * TINY, 64 * TINY, 100, 0),
    ):
        found = measure(np.asarray([got]), due(number), "float32", 4.0, np.zeros(()), 2, magnified)
        assert found.flushed == flushed
        assert found.over == 1 - flushed
        assert found.lost == (got == 0 and not flushed)


@pytest.mark.parametrize(
    ("got", "part", "flushed"),
    [(0.0, 1.0, 1), (0.0, 0.75, 0), (2.5, 0.75, 1), (2.4, 0.75, 0), (2.5, 0.5, 0), (25.0, 1.0, 0), (np.nan, 1.0, 0)],
)
def test_the_part_of_a_normal_number_that_is_made_of_them_may_be_missing(got: float, part: float, flushed: int) -> None:
    found = measured(got * TINY, due(10 * TINY), part)
    assert found.flushed == flushed
    assert found.lost == (got == 0 and not flushed)
    assert found.over + found.spurious == 1 - flushed


@pytest.mark.parametrize(("number", "part", "flushed"), [(1.5, 0.5, 1), (1.5, 0.25, 0), (1.5, 0.0, 0), (3.0, 0.5, 0)])
def test_the_rest_of_a_number_is_flushed_where_it_is_no_normal_number(number: float, part: float, flushed: int) -> None:
    found = measured(0.0, due(number * TINY), part)
    assert (found.flushed, found.lost, found.over) == (flushed, 1 - flushed, 1 - flushed)


@pytest.mark.parametrize(
    ("function", "quantity", "logits", "expected"),
    [
        # The largest other logit's exponential is a normal number up to a distance of 87.33.
        ("cross_entropy", "value", [0.0, -87.0, -200.0], 0),
        ("cross_entropy", "value", [0.0, -88.0, -88.0], 1),
        ("cross_entropy", "d logits", [0.0, -88.0, -88.0], [1, 1, 1]),
        ("cross_entropy", "d logits", [0.0, -88.0, -1.0], [0, 1, 0]),
        ("cross_entropy", "d logits", [-200.0, -80.0, 0.0], [0, 0, 0]),  # wrong: 1 - p of the label is 1
        ("log_softmax", "value", [0.0, -88.0, -88.0], [1, 0, 0]),
        ("softmax", "value", [0.0, -88.0, -1.0], [0, 1, 0]),
        ("logsumexp", "value", [0.0, -88.0, -88.0], 0),
    ],
)
def test_what_may_be_flushed_is_known_from_the_distances(
    function: str, quantity: str, logits: list[float], expected: Any
) -> None:
    arrays = {"logits": np.asarray([logits])}
    if function == "cross_entropy":
        arrays["target"] = np.zeros(1)
    case = Case(function, "", "", "float32", arrays, {"reduction": "none"} if "target" in arrays else {}, "index")
    found = np.broadcast_to(budget.flushable(case, quantity), np.shape([expected]))
    np.testing.assert_array_equal(found, [expected])
    assert not np.any(budget.flushable(replace(case, dtype="float64"), quantity))
    assert not np.any(budget.flushable(replace(case, dtype="float16"), quantity))


def test_a_part_of_what_may_be_flushed_is_rounded_up() -> None:
    case = Case(
        "softmax_focal_loss",
        "",
        "",
        "float32",
        {"logits": np.asarray([[0.0, -87.0, -88.0, -89.0]]), "target": np.zeros(1)},
        {"reduction": "none", "gamma": 1.0},
        "index",
    )
    part = (np.exp(-1) + np.exp(-2)) / (1 + np.exp(-1) + np.exp(-2))
    assert budget.flushable(case, "value") == pytest.approx([2 * part], rel=1e-5)


def test_terms_rounded_to_subnormals_are_forgiven_in_a_result_that_is_one() -> None:
    def over(size: float, off: float, dtype: str = "float32") -> int:
        got = np.asarray([size + off])
        found = measure(got, due(size), dtype, 4.0, np.zeros(()), terms=10)
        assert found.flushed == (size < TINY and off > 9 * LEAST)  # further off, it is what flushing takes
        return found.over

    assert (over(TINY / 2, 9 * LEAST), over(TINY / 2, 10 * LEAST)) == (0, 0)
    assert (over(TINY, 4 * LEAST), over(TINY, 5 * LEAST)) == (0, 1)
    # Half types are made of float32, far from where that ends.
    half = FORMATS["float16"]
    assert over(half.tiny / 2, 5 * 2.0**half.subnormal_exponent, "float16") == 1


@pytest.mark.parametrize(
    ("function", "quantity", "options", "k"),
    [
        ("softmax", "value", {}, [0, 16, 20, 104]),
        ("log_softmax", "value", {}, [16, 0, 0, 0]),
        ("log_softmax", "d logits", {"pulled": 0}, [16, 16, 20, 104]),
        ("log_softmax", "d logits", {"pulled": 1}, [0, 0, 20, 104]),
        ("log_softmax", "d logits", {}, [0, 16, 20, 104]),
        ("softmax", "d logits", {"pulled": 0}, [16, 16, 20, 104]),
        ("softmax", "d logits", {"pulled": 1}, [16, 16, 36, 104]),
        ("cross_entropy", "value", {"target": 0}, 16),
        ("cross_entropy", "value", {"target": 1}, 0),
        ("cross_entropy", "d logits", {"target": 0}, [16, 16, 20, 104]),
        ("cross_entropy", "d logits", {"target": 1}, [0, 0, 20, 104]),
        ("cross_entropy", "value", {"target": 0, "label_smoothing": 0.1}, 0),
        ("softmax_focal_loss", "value", {"target": 0, "gamma": 0.5}, 24),
        ("softmax_focal_loss", "d logits", {"target": 1, "gamma": 2.0}, [0, 0, 60, 312]),
        ("poly_loss", "value", {"target": 0, "epsilon": -1.0}, 32),
        ("poly_loss", "value", {"target": 0, "epsilon": 2.0}, 16),
        ("nll_loss", "value", {"target": 0}, 0),
    ],
)
def test_k_is_the_distance(function: str, quantity: str, options: dict[str, Any], k: list[float] | float) -> None:
    arrays = {"logits": np.asarray([[20.0, 4.0, 0.0, -1e4]])}
    pulled = np.eye(4)[[options.pop("pulled")]] if "pulled" in options else None
    if "target" in options:
        arrays["target"] = np.asarray([float(options.pop("target"))])
        options = {"reduction": "none", **options}
    case = Case(function, "", "", "float32", arrays, options, "index", pulled)
    np.testing.assert_array_equal(np.broadcast_to(budget.allowance(case, quantity), np.shape([k])), [k])
    assert not np.any(budget.allowance(replace(case, dtype="float16"), quantity))


def test_samples_that_do_not_count_take_no_k_from_a_sum() -> None:
    """Found by the fuzzer (draw 8025440): the one sample that counted had 33, and those that were masked 0."""
    arrays = {"logits": np.asarray([[20.0, 0.0], [0.0, 1.0]]), "target": np.zeros(2)}
    case = Case("poly_loss", "", "", "float32", arrays, {"reduction": "mean"}, "index")
    assert budget.allowance(case, "value") == 0
    for name, values in (("where", [1.0, 0.0]), ("sample_weight", [0.5, 0.0]), ("target", [0.0, -100.0])):
        left_out = replace(case, arrays={**arrays, name: np.asarray(values)})
        assert budget.allowance(left_out, "value") == 20, name
    none = replace(case, arrays={**arrays, "where": np.zeros(2)})
    assert np.isfinite(budget.allowance(none, "value"))


def test_a_sum_has_of_each_samples_margin_what_it_has_of_its_loss() -> None:
    """Found by the fuzzer (draw 8024635): reduced, asymmetric_loss was allowed nothing for p - margin."""
    x, y = np.asarray([-2.9, 3.0, 1.0]), np.asarray([0.0, 7.0, 1.0])
    options = {"reduction": "none", "ignore_index": 7, "gamma_negative": 1.0}
    case = Case("asymmetric_loss", "", "", "float32", {"logits": x, "target": y}, options, "index")
    k, losses = budget.allowance(case, "value"), exact(case)["value"].high
    summed = replace(case, options={**options, "reduction": "sum"})
    assert k[0] > 10
    assert budget.allowance(summed, "value") == pytest.approx(k[0] * losses[0] / (losses[0] + losses[2]), rel=1e-12)
    alone = replace(summed, arrays={"logits": x, "target": np.asarray([0.0, 7.0, 7.0])})
    assert budget.allowance(alone, "value") == k[0]


@pytest.mark.parametrize(
    ("function", "options", "value", "gradient"),
    [
        ("softmax_focal_loss", {"gamma": 2.0}, 12, 12),
        ("softmax_focal_loss", {"gamma": 5.0}, 28, 28),
        ("sigmoid_focal_loss", {"gamma": 2.0}, 8, 12),
        ("sigmoid_focal_loss", {"gamma": 5.0}, 28, 32),
        ("asymmetric_loss", {}, 24, 28),
        ("asymmetric_loss", {"gamma_positive": 0.5, "gamma_negative": 0.5}, 8, 12),
        ("poly_loss", {"epsilon": -0.5}, 12, 12),
        ("poly_loss", {}, 8, 8),
    ],
)
def test_the_budget_goes_with_gamma(function: str, options: dict[str, Any], value: float, gradient: float) -> None:
    case = Case(function, "", "", "float32", {"logits": np.zeros((1, 2))}, options)
    assert (budget.base(case, "value"), budget.base(case, "d logits")) == (value, gradient)


def test_a_divergence_has_what_its_derivatives_make_of_the_distances() -> None:
    x, t = np.asarray([[20.0, 0.0]]), np.asarray([[20.5, 0.0]])
    arrays = {"logits": x, "target": t}
    case = Case(
        "kl_divergence_with_logits",
        "",
        "",
        "float32",
        arrays,
        {"reduction": "none"},
        "float",
        np.ones(1),
        tuple(arrays),
    )
    answer = exact(case)
    q = 1 / (1 + np.exp(20.5))
    p = 1 / (1 + np.exp(20.0))
    # Of the larger of p and q, which is p: p's own distance, and of q's the part that q is of p.
    k = budget.due(case, answer)["d logits"].allowance[0, 1]
    assert k == np.ceil(20 + 20.5 * q / p)
    # Equal rows: of first order nothing moves, and of second order next to nothing.
    same = exact(replace(case, arrays={"logits": x, "target": x}))
    assert same["value"].moved is not None
    assert same["value"].moved[0] < 1e-10


def test_spread_is_the_farthest_apart_that_two_results_are() -> None:
    a, b, c = (np.asarray(v) for v in ([1.0, 2.0], [1.0, 2 + 4 * EPSILON], [1 + EPSILON, 2 - 2 * EPSILON]))
    gap = spread([a, b, c], due(1.0, 2.0), "float32")
    assert (gap.ulp, gap.at, gap.low, gap.high) == (3.0, 1, 2, 1)


def test_spread_leaves_to_the_measure_what_is_not_finite_or_may_be_flushed() -> None:
    exact = due(np.inf, 1.0, TINY / 2)
    gap = spread([np.asarray([np.inf, np.nan, 0.0]), np.asarray([np.inf, 1.0, TINY / 2])], exact, "float32")
    assert gap.ulp == 0
    assert spread([np.zeros(0), np.zeros(0)], due(), "float32").ulp == 0


def test_a_run_gathers_the_spread_between_libraries() -> None:
    spreads: Spreads = {}
    asked = Selection(("sigmoid",), ("numpy", "array-api-strict"), ("eager",), ("float32",), ("margins",))
    results = list(runner.run([package()], runner.selected_cases(asked), asked, spreads))
    assert {key[3] for key in spreads} == {"value"}
    within = sum(max(r.measured.worst for r in results if r.measured and r.backend == b) for b in asked.backends)
    assert 0 <= spreads["arrayloss", "sigmoid", "float32", "value"].ulp <= within


# ---------------------------------------------------------------- what is said of them


def test_better_names_a_peer_only_where_it_is() -> None:
    def one(implementation: str, function: str, worst: float, spurious: int = 0) -> Result:
        found = Measurement(1, worst, worst, 0, 0, spurious, 0, 0, 0)
        return Result(implementation, function, "numpy", "eager", "float32", "value", "", "", "ok", measured=found)

    pairs = [("binary_cross_entropy_with_logits", 0.5, 0), ("softmax", 9.0, 0), ("log_sigmoid", 0.5, 1)]
    results = [one("arrayloss", name, 2.0) for name, _, _ in pairs] + [one("scikit-learn", *pair) for pair in pairs]
    assert better(results) == (
        "- binary_cross_entropy_with_logits, value: scikit-learn on numpy 0.5 ULP; "
        "ours there 2.0 (on NumPy 2.0): computes in double"
    )


def test_a_run_says_what_it_leaves_out() -> None:
    full, quick = plan.left_out(quick=False), plan.left_out(quick=True)
    assert all(place in full for place in ("jax.jit", "torch.compile", "eager JAX", "Dask"))
    assert all(family in quick for family in SLOW)


def test_a_quick_run_has_every_function_everywhere_in_float32_and_a_half_type() -> None:
    """But for those whose programs take torch.compile longest; compiled by JAX, they are there."""
    chosen = list(runner.selected_cases(Selection(quick=True)))
    for one in backends():
        half = {"float16", "bfloat16"} & {*one.dtypes}
        for mode in one.modes:
            taken = [case for case in chosen if case.dtype in one.dtypes and plan.takes(case, one, mode, quick=True)]
            there = {*FUNCTIONS} - {*(plan.QUICK["torch.compile"].without if mode == "torch.compile" else ())}
            assert {case.function for case in taken if case.dtype == "float32"} == there, (one.name, mode)
            assert len({case.dtype for case in taken} & half) == min(1, len(half))
            if mode != "eager":  # each would be a compilation of its own
                for function in there:
                    asked = [c for c in taken if (c.function, c.dtype) == (function, "float32")]
                    assert len({(c.arrays["logits"].shape, str(c.options)) for c in asked}) == 1


def test_a_full_run_has_every_function_everywhere_and_adds_samples_up_for_each_family() -> None:
    for dtype in ("float32", "float64"):
        chosen = [case for function in FUNCTIONS for case in cases(function, dtype)]
        for one in (one for one in backends() if dtype in one.dtypes):
            for mode in one.modes:
                taken = [case for case in chosen if plan.takes(case, one, mode, quick=False)]
                apart = {*(plan.JENSEN_SHANNON if mode == "torch.compile" else ())}
                assert {case.function for case in taken} == {*FUNCTIONS} - apart, (one.name, mode)
                summed = {case.function for case in taken if case.family == "reductions"}
                if mode == "jax.jit":
                    assert summed == {*plan.EXAMPLES}
                elif one.module != "jax" and mode == "eager":
                    assert summed == {*FUNCTIONS} - {*TRANSFORMS}


@pytest.mark.parametrize("function", DIVERGENCES)
def test_a_divergence_is_asked_with_a_number_for_each_class(function: str) -> None:
    assert all(case.arrays["target"].shape == case.arrays["logits"].shape for case in cases(function, "float32"))


def test_a_family_asked_for_by_name_is_had_in_a_quick_run_too() -> None:
    asked = Selection(functions=("softmax",), dtypes=("float32",), families=("wide",), quick=True)
    assert [case.family for case in runner.selected_cases(asked)] == ["wide"]


def test_the_command_says_how_long_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ARGUMENTS]) == 0
    said = capsys.readouterr()
    assert "A quick run of 1 function on numpy: part of what takes about a minute on 2 cores" in said.err
    assert "All 1 cells are within the contract" in said.out
    assert "`--full` has all of it" in said.out


def test_what_a_hunt_finds_is_kept_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hunt, "KEPT", tmp_path / "hunted.json")
    assert main([*ARGUMENTS, "--hunt", "0.5"]) == 0
    assert "cross_entropy" in capsys.readouterr().out
    (case,) = hunt.kept(Selection(dtypes=("float32",)))
    assert (case.function, case.dtype) == ("cross_entropy", "float32")
    assert main([*ARGUMENTS, "--family", hunt.FAMILY]) == 0


def test_without_the_data_nothing_is_trained_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real.importlib.util, "find_spec", lambda name: None)
    (result,) = real.judged(package(), Selection())
    assert (result.status, result.reason) == ("not run", "scikit-learn, which has the data, is not installed")
