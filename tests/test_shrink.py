"""A failing case is made small, and the program printed for it shows the fault."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import broken
import numpy as np
import pytest

from arrayloss.testing import Case, Floats, Implementation, rounded
from arrayloss.testing import backends as every_backend
from conformance import failures, runner
from conformance.backends import arrayloss
from conformance.cases import BINARY, CATEGORICAL, FUNCTIONS, cases
from conformance.failures import Failure
from conformance.oracle import exact
from conformance.runner import Result, Selection
from conformance.shrink import shrink, taken
from conformance.snippet import NUMBERS, digits, snippet

HERE = Path(__file__).parent


def large(function: str = "softmax_focal_loss") -> Case:
    """Everything at once, on four axes."""
    return next(c for c in cases(function, "float32") if c.family == "options" and "k=3" in c.name)


def test_what_always_fails_becomes_one_sample_of_two_zeros() -> None:
    small = shrink(large(), lambda case: True)
    assert small.arrays["logits"].tolist() == [[0.0, 0.0]]
    assert list(small.arrays) == ["logits", "target"]
    assert (dict(small.options), small.wrt) == ({}, ())


def test_a_case_without_samples_stays_one() -> None:
    empty = next(c for c in cases("cross_entropy", "float32") if c.name == "empty batch")
    assert shrink(empty, lambda case: case.arrays["logits"].size == 0).arrays["logits"].shape[0] == 0


def test_what_never_fails_again_stays_as_it_is() -> None:
    case = large()
    assert shrink(case, lambda other: False) is case


def test_what_matters_is_kept() -> None:
    def fails(case: Case) -> bool:
        return case.options.get("gamma") == 1.5 and "alpha" in case.arrays and bool(np.any(case.arrays["logits"] > 2))

    small = shrink(large(), fails)
    assert set(small.options) == {"gamma"}
    assert set(small.arrays) == {"logits", "target", "alpha"}
    assert small.arrays["logits"].size == 2
    assert fails(small)


def test_numbers_become_short_and_stay_in_the_dtype() -> None:
    case = Case("sigmoid", "", "", "float32", {"logits": rounded([3.14159, 271.828, -0.1], "float32")})
    (number,) = shrink(case, lambda c: bool(np.any(c.arrays["logits"] > 100))).arrays["logits"]
    assert number in (200.0, 270.0, 300.0)
    small = shrink(case, lambda c: bool(np.any(np.abs(c.arrays["logits"] + 0.1) < 1e-3))).arrays["logits"]
    assert small == rounded(small, "float32")


def test_it_ends_after_its_tries() -> None:
    asked = []
    shrink(large(), lambda case: bool(asked.append(case)), tries=7)
    assert len(asked) == 7


def test_a_class_that_is_a_label_stays() -> None:
    case = Case("cross_entropy", "", "", "float32", {"logits": np.zeros((2, 3)), "target": np.asarray([2.0, 0.0])}, {})
    case = replace(case, target_kind="index")
    assert taken(case, 1, [0, 1]) is None
    kept = taken(case, 1, [0, 2])
    assert kept is not None
    assert kept.arrays["target"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_case_tried_is_one_that_the_oracle_can_answer(function: str) -> None:
    seen: set[str] = set()
    for case in cases(function, "float32", quick=True):
        if case.family in seen or case.family not in ("options", "nonfinite", "soft", "weights", "probabilities"):
            continue
        seen.add(case.family)

        def sound(candidate: Case) -> bool:
            x, target = candidate.arrays["logits"], candidate.arrays.get("target")
            if candidate.target_kind == "index" and target is not None and function in CATEGORICAL:
                assert np.all((target == -100) | ((target >= 0) & (target < x.shape[candidate.axis])))
            if function in BINARY and target is not None and candidate.options.get("ignore_index") is None:
                assert np.all((target >= 0) & (target <= 1))
            assert exact(candidate)["value"].high.size >= 0
            return x.size > 6

        shrink(case, sound, tries=60)
    assert seen


# ---------------------------------------------------------------- planted faults, by the programs printed for them


def planted(functions: tuple[str, ...]) -> Implementation:
    return Implementation("planted", {name: getattr(broken, name) for name in functions}, backends=("numpy",))


def judged(one: Implementation) -> list[Result]:
    return runner.judge(one, Selection(tuple(one.functions), ("numpy",), (), ("float32",), ("margins",)))


@pytest.fixture(scope="module")
def found() -> dict[str, Failure]:
    one = planted(("cross_entropy", "sigmoid", "log_sigmoid"))
    return {f.function: f for f in failures.gather(judged(one), [one])}


def pasted(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-"],
        input=program,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("function", ["cross_entropy", "sigmoid"])
def test_the_program_shows_the_wrong_number(function: str, found: dict[str, Failure]) -> None:
    failure = found[function]
    ran = pasted(failure.snippet)
    assert ran.returncode == 0, ran.stderr
    came, due = re.findall(r"^(?:came back|exact): +(\S+)$", ran.stdout, re.M)
    assert came == failure.got
    assert due == failure.exact
    assert not abs(float(came) - float(due)) < 1e-3 * float(due)
    assert len(failure.inputs["logits"]) < 30


def test_the_program_raises_what_was_raised(found: dict[str, Failure]) -> None:
    assert found["log_sigmoid"].got.startswith("ValueError: logits up to ")
    assert "ValueError: logits up to" in pasted(found["log_sigmoid"].snippet).stderr


def test_a_failure_says_where_it_was_found_and_by_how_much(found: dict[str, Failure]) -> None:
    told = failures.told(list(found.values()))
    assert "FAIL sigmoid, value, margins/logits()" in told
    assert "numpy eager float32" in told
    assert re.search(r"8\.3\d+e\+06 ULP, 4 allowed", told)  # half of a number near 1
    assert "import broken" in told


def test_only_so_many_are_made_small() -> None:
    one = planted(("cross_entropy", "sigmoid", "log_sigmoid"))
    results = judged(one)
    told = failures.gather(results, [one], shrunk=1)
    assert [bool(f.snippet) for f in told].count(True) == 1
    assert len(told) == len(failures.gather(results, [one], shrunk=0))


def test_time_runs_out_on_a_slow_one() -> None:
    one = planted(("sigmoid",))
    (failure,) = failures.gather(judged(one), [one], seconds=0.0)
    assert failure.case == "margins/logits()"


# ---------------------------------------------------------------- programs of every library

PLACES = [(b.name, mode) for b in every_backend() if b.missing() is None for mode in b.modes]


def small_case(function: str) -> Case:
    options: dict[str, Any] = {"reduction": "none"}
    arrays: dict[str, Floats] = {"logits": np.asarray([[0.5, -2.0], [3.0, 1.25]]), "target": np.asarray([1.0, 0.0])}
    if function == "sigmoid_focal_loss":
        arrays = {"logits": np.asarray([0.5, -2.0]), "target": np.asarray([1.0, 0.25])}
        options = {"reduction": "none", "gamma": 1.5}
    wrt = ("logits", "sample_weight")
    arrays["sample_weight"] = np.asarray([1.5, 0.5])
    kind = "index" if function == "cross_entropy" else "float"
    return Case(function, "", "", "float32", arrays, options, kind, np.asarray([1.0, 2.0]), wrt)


# torch.compile generates code for each program: one shows that they are lines of the same kind.
@pytest.mark.only(lambda mode, function: mode != "torch.compile" or function == "cross_entropy")
@pytest.mark.parametrize("function", ["cross_entropy", "sigmoid_focal_loss"])
@pytest.mark.parametrize(("place", "mode"), PLACES)
def test_a_program_gives_what_the_suite_was_given(place: str, mode: str, function: str) -> None:
    one = next(b for b in every_backend() if b.name == place)
    ours, case = arrayloss(), small_case(function)
    answer = exact(case)
    for quantity, numbers in one.evaluate(ours, case, mode).items():
        if mode == "torch.compile" and quantity != "value":
            continue
        plain = quantity.removeprefix("closed ").removeprefix("auto ")
        at = (1,) * numbers.ndim
        program = snippet(ours, case, place, mode, quantity, at, digits(answer[plain], at), "a\ntitle")
        assert program is not None
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(program, "snippet", "exec"), {})
        came, due = re.findall(r"^(?:came back|exact): +(\S+)$", printed.getvalue(), re.M)
        assert float(came) == pytest.approx(float(numbers[at]), rel=1e-6), quantity
        assert float(due) == pytest.approx(float(came), rel=1e-5), quantity


def test_what_cannot_be_pasted_has_no_program() -> None:
    local = Implementation("here", {"sigmoid": lambda x: x}, backends=("numpy",))
    case = Case("sigmoid", "", "", "float32", {"logits": np.zeros(1)})
    assert snippet(local, case, "numpy", "eager", "value", (0,), "0.5", "") is None
    wide = Case("sigmoid", "", "", "float32", {"logits": np.zeros(NUMBERS + 1)})
    assert snippet(arrayloss(), wide, "numpy", "eager", "value", (0,), "0.5", "") is None


def test_programs_hold_what_is_not_a_plain_number() -> None:
    arrays = {"logits": np.asarray([[np.inf, np.nan], [-np.inf, 0.1]]), "target": np.asarray([0.0, 1.0])}
    arrays["where"] = np.asarray([0.0, 1.0])
    case = Case("cross_entropy", "", "", "float32", arrays, {"reduction": "sum"}, "index")
    for changed, expected in ((case, 0.0), (replace(case, arrays={n: v[:0] for n, v in arrays.items()}), 0.0)):
        program = snippet(arrayloss(), changed, "numpy", "eager", "value", (), "0", "")
        assert program is not None
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(program, "snippet", "exec"), {})
        assert float(re.findall(r"came back: (\S+)", printed.getvalue())[0]) == expected
