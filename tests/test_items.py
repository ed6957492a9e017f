"""The suite's cases as items of pytest, in a run of its own as a maintainer has it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from conformance.cases import FUNCTIONS, cases

ROOT = Path(__file__).parents[1]


def run(where: Path, judge: str, *more: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-p", "conformance.items", "--pyargs", "conformance.items", "-rxs"]
    done = subprocess.run(
        [*command, f"--judge={judge}", *more],
        cwd=where,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_known_failures_are_named_in_a_file_and_others_fail(tmp_path: Path) -> None:
    name = "binary_cross_entropy_with_logits"
    broken = f"--candidate candidates:raises_at_times --as {name} --backend numpy --dtype float32"
    broken += " --family margins --family nonfinite"
    code, said = run(tmp_path, broken)
    assert code == 1, said
    assert f"test_case[{name}-float32-numpy-nonfinite/values(reduction=none)]" in said
    assert "1 failed, 2 passed" in said
    assert "no_such_thing" in said  # with the traceback
    assert "takes no ignore_index" in said
    known = tmp_path / "xfails.txt"
    known.write_text("# of our own\n*-numpy-nonfinite/values*  # not of inf\nnll_loss-*\n")
    code, said = run(tmp_path, broken, f"--xfails-file={known}")
    assert code == 0, said
    assert "2 passed, 9 skipped, 1 xfailed" in said
    assert "not of inf" in said


def test_this_package_on_a_library_and_what_cannot_be_selected(tmp_path: Path) -> None:
    pytest.importorskip("array_api_strict")
    asked = "--backend array-api-strict --function sigmoid --dtype float32 --family options --family nonfinite"
    code, said = run(tmp_path, asked)
    assert (code, "2 passed" in said) == (0, True), said
    code, said = run(tmp_path, "--candidate nowhere:f --as sigmoid")
    assert (code, "No module named 'nowhere'" in said) == (4, True), said


def test_no_two_cases_have_the_same_name() -> None:
    for function in FUNCTIONS:
        labels = Counter(case.label for case in cases(function, "float32", quick=True))
        assert {label for label, count in labels.items() if count > 1} == set(), function
