"""arrayloss.testing: measures, fixture and assertions, each shown to fail where it must."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arrayloss
from arrayloss import testing
from arrayloss.testing import (
    FORMATS,
    Case,
    Due,
    Exact,
    assert_conforms,
    assert_same,
    case,
    rounded,
    ulp_distance,
    vectors,
    witness,
)

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
(PLUGIN,) = PROJECT["entry-points"]["pytest11"].values()


# ---------------------------------------------------------------- formats and measure


def test_a_derivative_by_class_weights_has_no_sample() -> None:
    """More classes than samples: what the worst of its numbers depends on is every row."""
    one = case(np.zeros((2, 8)), [1, 2], class_weight=np.arange(8.0))
    exact = np.zeros(8)
    due = testing.Due(testing.Exact(exact, exact, exact), "float32", 8.0, np.zeros(8), 8)
    seen = testing.witness(one, due, "d class_weight", 7, exact)
    assert seen.position == (7,)
    assert [len(seen.inputs[name]) for name in ("logits", "target", "class_weight")] == [12, 2, 8]


@pytest.mark.parametrize("dtype", FORMATS)
def test_rounding_is_that_of_the_format(dtype: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    rng = np.random.default_rng(0)
    form = FORMATS[dtype]
    x = np.concatenate(
        [
            rng.normal(size=20_000) * 2.0 ** rng.integers(-160, 130, size=20_000),
            rng.normal(size=2_000) * form.tiny,
            np.asarray([0.0, -0.0, np.inf, -np.inf, np.nan, form.largest, -form.largest, 2.0**form.subnormal_exponent]),
            [] if dtype == "float64" else form.largest + np.asarray([0.49, 0.5, 0.51]) * form.epsilon * 2.0**form.emax,
            1 + np.arange(9) * form.epsilon / 4,  # ties
        ]
    )
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    with np.errstate(over="ignore"):
        expected = x.astype(kind).astype(np.float64)
    np.testing.assert_array_equal(rounded(x, dtype), expected)
    np.testing.assert_array_equal(np.signbit(rounded(x, dtype)), np.signbit(expected))


def test_ulp_distance_takes_any_array(backend: Any) -> None:
    got = backend.asarray([1.0, -3.0, 0.0, np.inf, np.nan], "float32")
    epsilon = FORMATS["float32"].epsilon
    distance = ulp_distance(got, [1 + epsilon, -3 + 4 * epsilon, 0.0, np.inf, 1.0])
    np.testing.assert_array_equal(distance, [1, 2, 0, 0, np.inf])


def test_ulp_distance_says_what_it_cannot_measure() -> None:
    with pytest.raises(ValueError, match=re.escape("(2,)")) as caught:
        ulp_distance(np.ones(2), np.ones((2, 1)))
    assert "(2, 1)" in str(caught.value)
    with pytest.raises(ValueError, match="int64 has no ULP"):
        ulp_distance(np.ones(2, dtype=np.int64), np.ones(2))
    assert ulp_distance(1 + 2.0**-7, 1.0, "bfloat16") == 1


# ---------------------------------------------------------------- libraries


def test_differentiate_is_the_librarys_own(subtests_of: list[testing.Backend]) -> None:
    assert subtests_of
    for one in subtests_of:
        with one.setting("float64"):
            x = one.array(np.asarray([2.0, 3.0]), "float64")
            assert one.owns(x)
            if not one.differentiates:
                with pytest.raises(TypeError, match=f"{one.name} has no autodiff"):
                    one.differentiate(lambda moving: moving["x"] ** 3, {"x": x})
                continue
            value, gradients = one.differentiate(lambda moving: moving["x"] ** 3, {"x": x})
            np.testing.assert_array_equal(one.numpy(value), [8, 27])
            np.testing.assert_array_equal(one.numpy(gradients["x"]), [12, 27])
            pulled = one.array(np.asarray([2.0, 0.0]), "float64")
            _, gradients = one.differentiate(lambda moving: moving["x"] ** 3, {"x": x}, pulled)
            np.testing.assert_array_equal(one.numpy(gradients["x"]), [24, 0])


@pytest.fixture
def subtests_of() -> list[testing.Backend]:
    return [one for one in testing.backends() if one.missing() is None]


def test_an_unknown_library_is_named() -> None:
    with pytest.raises(ValueError, match=r"no array library 'torch'; there are numpy, torch:cpu"):
        testing.backend("torch")


# ---------------------------------------------------------------- imports


def imported(code: str, names: list[str]) -> list[str]:
    out = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*[n for n in {names!r} if n in sys.modules])"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return out.stdout.split()


def test_importing_it_brings_in_no_library_and_no_pytest() -> None:
    others = ["torch", "jax", "cupy", "dask", "array_api_strict", "pytest", "flint", "ml_dtypes"]
    assert imported("import arrayloss.testing", others) == []
    assert imported("import arrayloss", ["arrayloss.testing"]) == []


def test_judges_import_no_kernel() -> None:
    """The suite, and what it is built on, know nothing of arrayloss but arrayloss.testing."""
    for path in [*(ROOT / "arrayloss" / "testing").glob("*.py"), *(ROOT / "conformance").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if names == ["arrayloss"] and isinstance(node, ast.ImportFrom):
                names = [f"arrayloss.{alias.name}" for alias in node.names]
            ours = [name for name in names if name.split(".")[0] == "arrayloss"]
            assert all(name.startswith("arrayloss.testing") for name in ours), (path, ours)


# ---------------------------------------------------------------- assert_same


def plain(x: Any) -> Any:
    return np.log(1 / (1 + np.exp(-x)))


def stable(x: Any) -> Any:
    return -np.logaddexp(x.dtype.type(0), -x)


def test_the_same_function_is_the_same_on_two_libraries() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("jax", reason="jax is not installed")
    given = [([[1.0, 2.0], [3.0, -1.0]], [1, 0]), case([[0.5, 0.5]], [[0.25, 0.75]], label_smoothing=0.1)]
    assert_same(arrayloss.cross_entropy, arrayloss.cross_entropy, given, ulp=4, libraries=("torch:cpu", "jax:cpu"))


def test_what_is_apart_is_told() -> None:
    with pytest.raises(AssertionError) as caught:
        assert_same(plain, stable, [([0.5],), ([-1.0, 15.5],)], gradient=False, libraries=("numpy", "numpy"))
    said = str(caught.value)
    number = r"\S+ \(-?0x1\.[0-9a-f]{13}p-2\d\)"
    assert re.fullmatch(
        r"plain and stable differ in 1 of 2 cases\n"
        r"- case 1, value: \d\.\d+e\+0\d ULP at 1: logits = \[-1\.0, 15\.5\]\n"
        rf"    plain on numpy {number}, stable on numpy {number}",
        said,
    )


def test_a_gradient_that_is_apart_is_told() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")

    def kinked(x: Any) -> Any:
        return torch.where(x > 0, x, 0 * x)

    with pytest.raises(AssertionError, match="case 0, d logits"):
        assert_same(torch.abs, lambda x: torch.where(x > 0, x, x.detach() * -1), [([-1.0, 2.0],)])
    with pytest.raises(AssertionError, match="case 0, value"):
        assert_same(torch.abs, kinked, [([-1.0, 2.0],)])


def test_shapes_that_differ_are_told() -> None:
    with pytest.raises(AssertionError, match=re.escape("value: shapes (2,) and ()")):
        assert_same(np.exp, lambda x: np.exp(x).sum(), [([1.0, 2.0],)], gradient=False, libraries=("numpy", "numpy"))


def test_nothing_is_compared_silently() -> None:
    with pytest.raises(ValueError, match="no cases"):
        assert_same(plain, stable, [])
    with pytest.raises(ValueError, match="numpy has no autodiff"):
        assert_same(plain, stable, [([1.0],)], libraries=("numpy", "numpy"))
    with pytest.raises(ValueError, match="numpy: TypeError: not this"):
        assert_same(plain, refusing, [([1.0],)], gradient=False, libraries=("numpy", "numpy"))


def refusing(x: Any) -> Any:
    raise TypeError("not this")


# ---------------------------------------------------------------- assert_conforms


@pytest.mark.parametrize(
    "library", [name for name in ("numpy", "torch:cpu") if testing.backend(name).missing() is None]
)
@pytest.mark.parametrize("name", testing.judged_functions())
def test_ours_conform(name: str, library: str) -> None:
    f = getattr(arrayloss, name)
    has_target = vectors(name)[0].target_kind != "none"
    alone = library == "numpy"
    both = arrayloss.value_and_grad(f) if alone and has_target else None
    not_covered = assert_conforms(f, library=library, value_and_grad=both, gradient=has_target or not alone)
    assert all("takes no reduction" in said for said in not_covered)


def test_what_does_not_conform_is_told() -> None:
    def sigmoid(x: Any) -> Any:
        return np.exp(x) / (1 + np.exp(x))

    with pytest.raises(AssertionError) as caught:
        assert_conforms(sigmoid, library="numpy", gradient=False, dtypes=["float32"], families=["margins"])
    head, first, where, numbers = str(caught.value).splitlines()
    assert head == "sigmoid is no sigmoid on numpy: 1 of 1 cases fail, 0 not covered"
    assert first.startswith("- margins/logits(), float32: value: ")
    assert "NaN or inf for a finite number" in first
    assert re.fullmatch(r"    at \d+: logits = \d+\.\d+", where)
    assert numbers == "    exact 1 (0x1.0000000000000p+0), got nan: inf ULP"


@pytest.mark.parametrize(("off", "budget", "conforms"), [(3, None, True), (6, None, False), (6, 8, True)])
def test_the_budget_is_the_contracts_or_ones_own(off: int, budget: float | None, conforms: bool) -> None:
    def sigmoid(x: Any) -> Any:
        exact = 1 / (1 + np.exp(-x.astype(np.float64)))
        return exact + off * testing.spacing(exact, "float32")

    asked: dict[str, Any] = {"library": "numpy", "gradient": False, "dtypes": ["float32"], "families": ["margins"]}
    if conforms:
        assert assert_conforms(sigmoid, budget=budget, **asked) == []
    else:
        with pytest.raises(AssertionError, match="over 4 ULP"):
            assert_conforms(sigmoid, budget=budget, **asked)


def test_a_wrong_gradient_alone_does_not_conform() -> None:
    def wrong(logits: Any, target: Any, **options: Any) -> Any:
        value, gradient = arrayloss.value_and_grad(arrayloss.cross_entropy)(logits, target, **options)
        return value, gradient * 1.001

    asked: dict[str, Any] = {"as_": "cross_entropy", "library": "numpy", "dtypes": ["float64"]}
    assert_conforms(arrayloss.cross_entropy, gradient=False, **asked)
    with pytest.raises(AssertionError, match="closed d logits"):
        assert_conforms(arrayloss.cross_entropy, value_and_grad=wrong, **asked)


def test_it_says_what_it_cannot_judge() -> None:
    with pytest.raises(ValueError, match="numpy has no autodiff: give value_and_grad, or gradient=False"):
        assert_conforms(arrayloss.cross_entropy, library="numpy")
    with pytest.raises(ValueError, match="plain says nothing of what it is judged as"):
        assert_conforms(plain)
    with pytest.raises(ValueError, match=r"hinge is no function that can be judged; .*cross_entropy"):
        assert_conforms(plain, "hinge")
    with pytest.raises(ValueError, match="numpy: TypeError: not this"):
        assert_conforms(refusing, "sigmoid", library="numpy")
    with pytest.raises(AssertionError, match="judged by no case of sigmoid on numpy: there are none of wide"):
        assert_conforms(arrayloss.sigmoid, library="numpy", gradient=False, families=["wide"])


# ---------------------------------------------------------------- the plugin, and the page that tells of all this

BLOCKS = re.findall(r"```(python|text)\n(.*?)```", PAGE, re.DOTALL)


def numberless(text: str) -> str:
    """Errors and results, in their last digits, are this machine's."""
    text = re.sub(r"got \S+( \(\S+\))?|on \S+ -?\d\S* \(\S+\)", "#", text)
    return re.sub(r"[\d.]+(e\+\d+)? ULP", "# ULP", re.sub(r": [^\n]* of \d+\n", ": #\n", text))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # a naive formula overflows
def test_the_page_says_what_happens() -> None:
    for name in ("torch", "jax"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    told = 0
    space: dict[str, Any] = {}
    for i, (kind, text) in enumerate(BLOCKS):
        if kind == "text":
            continue
        space = {name: value for name, value in space.items() if not name.startswith("test_")}
        exec(text, space)
        (test,) = [f for name, f in space.items() if name.startswith("test_")] or [None]
        if i + 1 < len(BLOCKS) and BLOCKS[i + 1][0] == "text":
            with pytest.raises(AssertionError) as caught:
                test()
            assert numberless(str(caught.value) + "\n").startswith(numberless(BLOCKS[i + 1][1]))
            told += 1
        elif test is not None and "array_library" not in text:
            test()
    assert told == 4


def pytest_with_the_plugin(folder: Path, *arguments: str) -> str:
    """What a pytest of its own says of the tests in a folder, with this plugin and no other."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", PLUGIN, *arguments, str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_the_plugin_runs_a_test_on_every_library(tmp_path: Path) -> None:
    """With the page's own test."""
    (code,) = [text for kind, text in BLOCKS if kind == "python" and "array_library" in text]
    (tmp_path / "test_page.py").write_text(f"import numpy as np\n{code}")
    said = pytest_with_the_plugin(tmp_path, "-v", "-rs")
    for one in testing.backends():
        reason = one.missing()
        assert f"test_everywhere[{one.name}] {'PASSED' if reason is None else 'SKIPPED'}" in said
        assert reason is None or f"{one.name}: {reason}" in said


ON_SOME = """
import sys
import pytest

def imported():
    return sorted({"numpy", "arrayloss"} & {name.partition(".")[0] for name in sys.modules})

AT_FIRST = imported()

def test_nothing_is_imported_before_it_is_needed():
    assert (AT_FIRST, imported()) == ([], [])

@pytest.mark.parametrize("array_library", ["numpy"], indirect=True)
def test_some(array_library):
    assert imported() == ["arrayloss", "numpy"]
    assert array_library.name == "numpy"
"""


def test_the_plugin_imports_nothing_until_the_fixture_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(ON_SOME)
    assert "2 passed" in pytest_with_the_plugin(tmp_path)


def test_the_plugin_names_every_library() -> None:
    plugin = importlib.import_module(PLUGIN)
    assert list(plugin.NAMES) == [one.name for one in testing.backends()]


def test_what_is_wrong_by_a_class_is_no_matter_of_one_sample() -> None:
    # More classes than samples: there is no such row.
    arrays = {"logits": np.zeros((2, 5)), "class_weight": np.arange(5.0)}
    found = witness(Case("cross_entropy", "", "", "float32", arrays), nothing_due(5), "d class_weight", 4, np.zeros(5))
    assert found.position == (4,)
    assert found.inputs["class_weight"] == [float(v).hex() for v in range(5)]
    rows = witness(Case("cross_entropy", "", "", "float32", arrays), nothing_due(2, 5), "d logits", 7, np.zeros((2, 5)))
    assert rows.inputs["logits"] == [(0.0).hex()] * 5


def nothing_due(*shape: int) -> Due:
    zeros = np.zeros(shape)
    return Due(Exact(zeros, zeros, zeros), "float32", 8.0, np.zeros(()), 5)
