"""The golden vectors: written anew and compared, read back, and judged by from their README alone."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arrayloss
from arrayloss.testing import FORMATS, Reduce, _cases, _formats, _vectors, judged_functions, spacing, vectors
from arrayloss.testing._vectors import parse
from conformance import cases, draws, golden, hunt, real
from conformance.__main__ import main
from conformance.cases import FUNCTIONS
from conformance.runner import Selection

FILES = Path(__file__).parents[1] / "conformance" / "vectors"


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_files_are_what_the_oracle_says_today(function: str) -> None:
    assert (FILES / f"{function}.json").read_text(encoding="utf-8") == golden.text(function), (
        "python -m conformance --vectors conformance/vectors writes them anew"
    )


FORBIDDEN = (
    *(
        "exp",
        "exp2",
        "expm1",
        "log",
        "log2",
        "log10",
        "log1p",
        "logaddexp",
        "logaddexp2",
        "power",
        "float_power",
        "cbrt",
    ),
    *("sin", "cos", "tan", "arcsin", "arccos", "arctan", "arctan2", "sinh", "cosh", "tanh", "arcsinh", "arccosh"),
    *("arctanh", "hypot", "logspace", "geomspace"),
)
"""Functions of NumPy whose last digits depend on the C library, or on the width of the processor's vectors."""

MAKERS = (cases, draws, real, golden, hunt, _cases, _formats, _vectors)


def test_inputs_are_made_without_a_function_whose_digits_depend_on_the_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbidden(*args: Any, **options: Any) -> None:
        raise AssertionError("no input may be made with this")

    carried = importlib.util.find_spec("sklearn") is not None
    if carried:
        real.data("digits")  # what is imported for it may well have constants made so
    for name in FORBIDDEN:
        monkeypatch.setattr(np, name, forbidden)
    for name in dir(math):
        if name not in ("ceil", "floor", "inf", "isfinite", "isinf", "isnan", "ldexp", "nan", "prod", "frexp"):
            monkeypatch.setattr(math, name, forbidden)
    for name in ("default_rng", "Generator", "RandomState"):
        monkeypatch.setattr(np.random, name, forbidden)
    made = sum(1 for function in FUNCTIONS for dtype in FORMATS for _ in cases.cases(function, dtype))
    made += sum(1 for function in FUNCTIONS for _ in golden.picked(function))
    made += sum(1 for _ in hunt.kept(Selection()))
    for function in FUNCTIONS:
        parameter = hunt.PARAMETERS[function][1][0] if function in hunt.PARAMETERS else None
        assert len(hunt._draw(function, "float32", parameter, draws.Draws(0), None).arrays["logits"]) == hunt.ROWS
    if carried:
        made += sum(1 for function in real.TRAINED for _ in real._cases(function, Selection()))
    assert made > 2000


@pytest.mark.parametrize("module", MAKERS, ids=lambda module: module.__name__)
def test_nothing_is_raised_to_a_power_there(module: Any) -> None:
    """`**` is NumPy's power, and no attribute that could be replaced; a power of two is `ldexp`."""
    tree = ast.parse(inspect.getsource(module))
    powers = [
        n.lineno for n in ast.walk(tree) if isinstance(n, ast.BinOp | ast.AugAssign) and isinstance(n.op, ast.Pow)
    ]
    assert not powers


def test_one_command_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden, "FUNCTIONS", ("sigmoid",))
    assert main(["--vectors", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["sigmoid.json"]
    assert (tmp_path / "sigmoid.json").read_bytes() == (FILES / "sigmoid.json").read_bytes()


def test_they_are_small_and_there_for_every_function() -> None:
    assert judged_functions() == tuple(sorted(FUNCTIONS))
    assert sum(path.stat().st_size for path in FILES.iterdir()) < 2_500_000


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_read_is_what_was_written(function: str) -> None:
    read = vectors(function)
    written = list(golden.chosen(function))
    assert len(read) == len(written)
    for a, b in zip(read, written, strict=True):
        assert (a.label, a.dtype, a.target_kind) == (b.label, b.dtype, b.target_kind)
        assert list(a.arrays) == list(b.arrays)
        for name, values in a.arrays.items():
            np.testing.assert_array_equal(values, b.arrays[name])
        for quantity, due in a.due.items():
            other = b.due[quantity]
            assert (due.dtype, due.budget, due.terms) == (other.dtype, other.budget, other.terms)
            np.testing.assert_array_equal(due.allowance, np.broadcast_to(other.allowance, due.allowance.shape))
            with np.errstate(invalid="ignore"):
                unit, same = (
                    spacing(np.where(np.isfinite(e.high), np.maximum(np.abs(e.high), e.scale), 0), due.dtype)
                    for e in (due.exact, other.exact)
                )
                apart = np.abs((due.exact.high - other.exact.high) + (due.exact.low - other.exact.low)) / unit
            np.testing.assert_array_equal(unit, same)
            assert not np.any(apart > 1e-5)  # 22 digits of a float64
            np.testing.assert_array_equal(np.isnan(due.exact.high), np.isnan(other.exact.high))


def test_they_are_selected_by_dtype_and_family() -> None:
    some = vectors("cross_entropy", dtypes=["float64"], families=["margins", "ties"])
    assert {(case.dtype, case.family) for case in some} == {("float64", "margins"), ("float64", "ties")}
    with pytest.raises(ValueError, match=r"no golden vectors of 'hinge'; there are .*cross_entropy"):
        vectors("hinge")
    with pytest.raises(ValueError, match="schema 2"):
        parse('{"schema": 2}')


def test_the_suite_judges_by_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--family", "vectors", "--function", "sigmoid", "--dtype", "float32", "--backend", "numpy"]
    assert main(asked) == 0
    assert "1 cells" in capsys.readouterr().out
    monkeypatch.setattr(arrayloss, "sigmoid", lambda x: 1.001 / (1 + np.exp(-x)))
    assert main(asked) == 1
    assert "vectors/margins logits" in capsys.readouterr().out


# ---------------------------------------------------------------- another language's reader, by the README alone

PRECISION = {
    "float16": (11, -14, 15),
    "bfloat16": (8, -126, 127),
    "float32": (24, -126, 127),
    "float64": (53, -1022, 1023),
}


def numbers(array: dict[str, Any]) -> list[float]:
    read = float.fromhex if array["dtype"].startswith(("float", "bfloat")) else int
    found = [float(read(n)) for n in array["numbers"].split()]
    assert len(found) == math.prod(array["shape"])
    return found


def passes(got: list[float], due: dict[str, Any]) -> bool:
    """The rules of the README, in rational arithmetic."""
    p, emin, emax = PRECISION[due["dtype"]]
    exact = [float.fromhex(n) for n in due["exact"].split()]
    digits = due["decimal"].split()
    scale = [float.fromhex(n) for n in due["scale"].split()] if "scale" in due else [0.0] * len(exact)
    k = [float(n) for n in due["k"].split()] if "k" in due else [0.0] * len(exact)
    parts = [float(n) for n in due["flushable"].split()] if "flushable" in due else [0.0] * len(exact)
    assert len(got) == len(exact) == len(digits) == len(scale) == len(k) == math.prod(due["shape"])
    for r, e, decimal, s, more, part in zip(got, exact, digits, scale, k, parts, strict=True):
        if not math.isfinite(e):
            if not (r == e or (math.isnan(r) and math.isnan(e))):
                return False
            continue
        size = max(abs(Fraction(decimal)), Fraction(s))
        binade = emin if size == 0 else max(math.frexp(size)[1] - 1, emin)
        unit = Fraction(2) ** (binade - p + 1)
        allowed = (Fraction(due["budget"]) + Fraction(more)) * unit
        if size < Fraction(2) ** emin:
            allowed += Fraction(due["terms"], 2) * Fraction(2) ** (emin - p + 1)
        size = abs(Fraction(decimal))
        if r == 0:
            flushed = size < Fraction(2) ** emin or part == 1
        else:
            flushed = (
                abs(Fraction(r) - Fraction(decimal)) <= allowed + Fraction(part) * size if math.isfinite(r) else False
            )
        least = due["terms"] * Fraction(2) ** (emin if due["dtype"] != "float16" else -126)
        near = math.isfinite(r) and abs(Fraction(r) - Fraction(decimal)) <= least
        if flushed or (near and size < Fraction(due.get("magnified", 1)) * Fraction(2) ** emin):
            continue
        if not math.isfinite(r):
            largest = (2 - Fraction(2) ** (1 - p)) * Fraction(2) ** emax
            if math.isnan(r) or (r > 0) != (e > 0) or abs(Fraction(decimal)) + allowed + unit / 2 < largest:
                return False
        elif abs(Fraction(r) - Fraction(decimal)) > allowed:
            return False
    return True


def asked(case: dict[str, Any]) -> tuple[list[Any], dict[str, Any]] | None:
    """The arrays and options of a case for NumPy, which has no bfloat16."""
    if case["dtype"] == "bfloat16":
        return None
    arrays = {name: np.asarray(numbers(a), dtype=a["dtype"]).reshape(a["shape"]) for name, a in case["arrays"].items()}
    leading = [arrays.pop(name) for name in ("logits", "target") if name in arrays]
    options = {**case["options"], **arrays}
    if isinstance(options.get("reduction"), dict):
        options["reduction"] = getattr(arrayloss, options["reduction"]["kind"])(**options["reduction"]["arguments"])
    if "dtype" in options:
        options["dtype"] = np.dtype(options["dtype"])
    return leading, options


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("off", [0.0, 2.0**-15])
def test_the_readme_is_enough_to_judge_by(function: str, off: float) -> None:
    """What the suite passes passes here, and what is off by 2**-15 passes nowhere but in half types."""
    cases = json.loads((FILES / f"{function}.json").read_text(encoding="utf-8"))["cases"]
    f = getattr(arrayloss, function)
    judged = 0
    for case in cases:
        if (call := asked(case)) is None or (off and case["dtype"] == "float16"):
            continue
        leading, options = call
        found = {"value": f(*leading, **options)}
        if len(leading) > 1 and "d logits" in case["due"]:
            pull = case.get("cotangent")
            if pull is not None:
                options["cotangent"] = np.asarray(numbers(pull), dtype=pull["dtype"]).reshape(pull["shape"])
            found["d logits"] = arrayloss.value_and_grad(f)(*leading, **options)[1]
        for quantity, got in found.items():
            due = case["due"][quantity]
            assert list(np.shape(got)) == due["shape"]
            wrong = [float(v) * (1 + off) for v in np.ravel(got)]
            moved = any(math.isfinite(v) and abs(v) > 2.0**-1000 for v in wrong)
            within = "k" in due  # far enough from the maximum, k is more than what is off
            assert passes(wrong, due) == (not off or not moved) or (off and within), (case["family"], case["name"])
            judged += 1
    assert judged


def test_the_readme_names_every_key() -> None:
    page = (FILES / "README.md").read_text(encoding="utf-8")
    keys: set[str] = set()
    for path in FILES.glob("*.json"):
        for case in json.loads(path.read_text(encoding="utf-8"))["cases"]:
            keys |= {*case, *case["arrays"], *case["options"]}
            keys |= {key for due in case["due"].values() for key in due}
            keys |= {key for array in case["arrays"].values() for key in array}
    assert keys - set(re.findall(r"`(\w+)`", page)) == set()
    assert str(Reduce("Hardest", {"k": 3})) == "Hardest(k=3)"
