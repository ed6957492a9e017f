"""The suite tests itself: it passes what is right, and a fault planted in a kernel makes the command fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arrayloss
from arrayloss import _kernels
from arrayloss._engine import Problem, categorical
from arrayloss._gradients import loss
from arrayloss._modes import Array, Traced
from arrayloss.testing import FORMATS, Case, Exact, Measurement, measure, spread
from conformance import budget, hunt, real, runner
from conformance.__main__ import main
from conformance.backends import arrayloss as package
from conformance.peers import better
from conformance.runner import Result, Selection, Spreads

ARGUMENTS = ["--backend", "numpy", "--dtype", "float32", "--function", "cross_entropy"]
CORRECT = _kernels.CrossEntropy()
FAMILIES = {"margins", "soft", "weights"}


def planted(
    cost: Any = CORRECT,
    link: Any = _kernels.softmax,
    label: Callable[[Any, int], Any] = lambda t, classes: t,
    dropped: tuple[str, ...] = (),
) -> Any:
    """cross_entropy, but for one thing."""

    @loss
    def cross_entropy(logits: Any, target: Any, /, *, label_smoothing: float = 0.0, **options: Any) -> Problem[Any]:
        given = {
            "axis": -1,
            "class_weight": None,
            "sample_weight": None,
            "where": None,
            "ignore_index": -100,
            "reduction": "mean",
            "dtype": None,
            **{k: v for k, v in options.items() if k not in dropped},
        }
        target = label(target, logits.shape[given["axis"]])
        return categorical(link, cost, logits, target, label_smoothing=label_smoothing, **given)

    return cross_entropy


@dataclass(frozen=True)
class WrongSign(_kernels.CrossEntropy):
    def slope(self, mode: Traced, at: _kernels.Chance) -> Array:
        return -super().slope(mode, at)


def naive(
    mode: Traced, x: Array, target: Array, near: float, coefficient: Array | None
) -> tuple[_kernels.Chance, _kernels.Pull]:
    """Softmax, then its logarithm: what the tutorial asks about."""
    xp = mode.xp
    labels = mode.labels(x, target)
    p = labels.take(xp.exp(x) / xp.sum(xp.exp(x), axis=1, keepdims=True))
    _, pull = _kernels.softmax.label(mode, x, target, near, coefficient)
    return _kernels.Chance(-xp.log(p), lambda: (p, 1 - p)), pull


def shifted(target: Any, classes: int) -> Any:
    return (target + 1) % classes if target.dtype.kind == "i" else target


FAULTS = {
    "sign": planted(WrongSign()),
    "missing weight": planted(dropped=("class_weight",)),
    "naive": planted(link=_kernels.RowLink(naive, _kernels.softmax.rows)),
    "shifted label": planted(label=shifted),
}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_what_is_right_passes(family: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ARGUMENTS, "--family", family]) == 0
    assert "FAIL" not in capsys.readouterr().out


def test_the_fault_is_all_that_is_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrayloss, "cross_entropy", planted())
    assert main([*ARGUMENTS, "--family", "margins"]) == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_fails_the_command(
    fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(arrayloss, "cross_entropy", FAULTS[fault])
    family = "weights" if fault == "missing weight" else "margins"
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


def measured(got: float, exact: Exact, flushes: bool = False) -> Measurement:
    return measure(np.asarray([got]), exact, "float32", 4.0, np.zeros(()), flushes=flushes)


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


def test_a_compiler_that_flushes_may_lose_terms_of_a_subnormal_number_alone() -> None:
    assert measured(TINY / 2, due(TINY * 0.75), flushes=True).flushed == 1
    assert measured(TINY / 2, due(TINY * 0.75)).over == 1
    # Of a normal number none, unless the formula multiplies what was flushed, and no more than that.
    for got, exact, magnified, flushed in (
        (0.0, TINY * 1.5, 1, 0),
        (0.0, TINY * 1.5, 2, 1),
        (0.0, TINY * 2.5, 2, 0),
        (63 * TINY, 64 * TINY, 2, 0),
        (63 * TINY, 64 * TINY, 100, 1),
        (61 * TINY, 64 * TINY, 100, 0),
    ):
        found = measure(np.asarray([got]), due(exact), "float32", 4.0, np.zeros(()), 2, magnified, flushes=True)
        assert found.flushed == flushed
        assert found.over == 1 - flushed
        assert found.lost == (got == 0 and not flushed)


def test_terms_rounded_to_subnormals_are_forgiven_in_a_result_that_is_one() -> None:
    def over(size: float, off: float, dtype: str = "float32") -> int:
        got = np.asarray([size + off])
        return measure(got, due(size), dtype, 4.0, np.zeros(()), terms=10).over

    assert (over(TINY / 2, 9 * LEAST), over(TINY / 2, 10 * LEAST)) == (0, 1)
    assert (over(TINY, 4 * LEAST), over(TINY, 5 * LEAST)) == (0, 1)
    # Half types are made of float32, far from where that ends.
    half = FORMATS["float16"]
    assert over(half.tiny / 2, 5 * 2.0**half.subnormal_exponent, "float16") == 1


@pytest.mark.parametrize(
    ("function", "quantity", "options", "k"),
    [
        ("softmax", "value", {}, [0, 8, 10, 52]),
        ("softmax", "d logits", {}, [0, 8, 10, 52]),
        ("log_softmax", "value", {}, [8, 0, 0, 0]),
        ("log_softmax", "d logits", {}, [0, 8, 10, 52]),
        ("cross_entropy", "value", {"target": 0}, 8),
        ("cross_entropy", "value", {"target": 1}, 0),
        ("cross_entropy", "d logits", {"target": 0}, [0, 8, 10, 52]),
        ("cross_entropy", "value", {"target": 0, "label_smoothing": 0.1}, 0),
        ("softmax_focal_loss", "value", {"target": 0, "gamma": 0.5}, 12),
        ("softmax_focal_loss", "d logits", {"target": 1, "gamma": 2.0}, [0, 24, 30, 156]),
        ("nll_loss", "value", {"target": 0}, 0),
    ],
)
def test_k_is_half_the_distance(function: str, quantity: str, options: dict[str, Any], k: list[float] | float) -> None:
    arrays = {"logits": np.asarray([[20.0, 4.0, 0.0, -1e4]])}
    if "target" in options:
        arrays["target"] = np.asarray([float(options.pop("target"))])
        options = {"reduction": "none", **options}
    case = Case(function, "", "", "float32", arrays, options, "index")
    found = np.ceil(np.broadcast_to(budget.allowance(case, quantity), (1, *np.shape(k)))[0])
    end = 1 + options.get("gamma", 0.0)
    np.testing.assert_allclose(found, k, atol=end - 1)  # 51.64 is the end of float32, times 1 + gamma
    assert np.all(budget.allowance(case, quantity) <= 51.65 * end)
    assert not np.any(budget.allowance(replace(case, dtype="float16"), quantity))


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


def test_a_full_run_says_what_it_leaves_out() -> None:
    said = runner.left_out(Selection())
    assert all(family in said for families in runner.LEFT_OUT.values() for family in families)
    assert runner.left_out(Selection(families=("million",))) == ""
    assert "million" in runner.left_out(Selection(quick=True))


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
