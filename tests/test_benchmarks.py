"""The benchmark: its inputs, its rows, its command."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arrayloss as al
from arrayloss.testing import as_numpy
from benchmarks import against, timing
from benchmarks.__main__ import main
from benchmarks.rows import Row, dry, logits, rows

ROOT = Path(__file__).parents[1]
SMALL = "numpy small cross_entropy"


def _small() -> list[Row]:
    """The rows of this machine's libraries, with at most 40 logits along an axis, each once."""
    cut = [replace(r, shape=tuple(min(n, 40) for n in r.shape)) for r in rows() if not r.memory]
    cut += [dry(r) for r in rows() if ":cuda" in r.library and not r.memory]
    return list({(r.name, r.std): r for r in cut if "compile" not in r.work}.values())


def _last(result: Any) -> Any:
    """The gradient, where a call returns one; else the value."""
    return as_numpy(result[-1] if isinstance(result, tuple) else result)


def test_medians_are_of_calls() -> None:
    calls: Counter[str] = Counter()
    found = timing.medians({n: (lambda n=n: calls.update([n])) for n in "ab"}, 0.01)  # type: ignore[misc]
    assert set(found) == {"a", "b"}
    assert all(t > 0 for t in found.values())
    assert calls["a"] > 5


@pytest.mark.parametrize("std", ["1", "5", "30"])
def test_logits_have_the_standard_deviation_that_is_asked_for(std: str) -> None:
    assert logits((100, 1000), std).std() == pytest.approx(float(std), rel=0.01)


def test_one_logit_is_an_outlier() -> None:
    x, plain = logits((100, 1000), "3+60"), logits((100, 1000), "3")
    assert x.dtype == plain.dtype == np.float32
    assert x[x != plain].tolist() == [60]


def test_every_row_has_a_bound_and_a_name_of_its_own() -> None:
    every = list(rows())
    assert len({(r.name, r.std) for r in every}) == len(every)
    assert all(r.bound is not None and r.bound > 0 for r in every)


def test_rows_at_another_std_have_no_bound() -> None:
    found = list(rows(["7"]))
    assert {r.name for r in found} == {r.name for r in rows()}
    assert {(r.std, r.bound) for r in found} == {("7", None)}


@pytest.mark.parametrize("row", _small(), ids=lambda row: f"{row.name} {row.std}")
def test_both_sides_of_a_row_compute_the_same(row: Row) -> None:
    if reason := row.missing():
        pytest.skip(reason)
    contest = row.contest(row, al)
    ours, theirs = _last(contest.ours()), _last(contest.theirs())
    rtol = 1e-4 if row.dtype == "float32" else 0.05  # theirs is computed in bfloat16
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * 1e-5)
    contest.passing()


def test_kernels_are_counted() -> None:
    """On the CPU, where the profiler's events are operations: there is no device to see it on."""
    torch = pytest.importorskip("torch")
    from benchmarks import kernels

    x = torch.ones(3)
    assert kernels.started(lambda: x, on="CPU") == 0
    assert kernels.started(lambda: x.exp(), on="CPU") == 1
    assert kernels.started(lambda: x.exp().log(), on="CPU") == 2


def test_large_logits_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import rows as module

    monkeypatch.setattr(module, "_DRAWN", 100)
    x = module.logits((7, 60))
    assert x.shape == (7, 60)
    np.testing.assert_array_equal(x.reshape(-1)[:100], x.reshape(-1)[100:200])
    assert len(np.unique(x)) == 100


def test_another_checkout_is_a_package_of_its_own(tmp_path: Path) -> None:
    before = against.load(ROOT, tmp_path, "arrayloss_other")
    assert before.cross_entropy is not al.cross_entropy
    assert before.cross_entropy.__module__.startswith("arrayloss_other")
    assert Path(before.__file__).is_relative_to(tmp_path)
    x = logits((8, 5))
    assert before.cross_entropy(x, np.zeros(8, np.int64)) == al.cross_entropy(x, np.zeros(8, np.int64))
    assert not re.search(r"\barrayloss\b", "".join(f.read_text() for f in tmp_path.rglob("*.py")))


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="scipy, the row's peer, is not installed")
    file = tmp_path / "figures.json"
    assert main([SMALL, "cupy", "--std", "1", "--std", "15", "--seconds", "0.05", "--json", str(file)]) == 0
    said = capsys.readouterr().out
    assert re.search(rf"{SMALL} +\| 32x10 +\| 1 +\| scipy log_softmax .*\| 2 +\| (kept|MISSED)", said)
    assert re.search(rf"{SMALL} +\| 32x10 +\| 15 +\| scipy log_softmax .*\| +\| +\|", said)
    assert "not run here" in said or "cupy cross_entropy" in said
    found = json.loads(file.read_text())
    assert [r["std"] for r in found["rows"] if r["work"] == SMALL] == ["1", "15"]
    assert found["about"]["processor"]


def test_the_command_measures_another_checkout_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="scipy, the row's peer, is not installed")
    file = tmp_path / "figures.json"
    assert main([SMALL, "--seconds", "0.05", "--against", str(ROOT), "--json", str(file)]) == 0
    heads = re.search(r"\| work .*", capsys.readouterr().out)
    assert heads
    assert [h.strip() for h in heads[0].split("|")][5:10] == [
        "before, ms",
        "after, ms",
        "theirs, ms",
        "before / theirs",
        "after / theirs",
    ]
    assert json.loads(file.read_text())["rows"][0]["before"] > 0
