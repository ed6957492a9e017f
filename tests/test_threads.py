"""NumPy's blocks on several threads: the same numbers, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import arrayloss as al
from arrayloss._libraries import numpy as library

LOGITS = np.random.default_rng(0).standard_normal((9000, 500), dtype=np.float32)
LABELS = np.random.default_rng(1).integers(0, 500, 9000)
BLOCKS = [(slice(i, i + 1),) for i in range(6)]
CALLS: dict[str, Callable[[], Any]] = {
    "value": lambda: al.cross_entropy(LOGITS, LABELS, reduction="none"),
    "gradient": lambda: al.value_and_grad(al.cross_entropy)(LOGITS, LABELS)[1],
    "wide": lambda: al.value_and_grad(al.cross_entropy)(LOGITS * 50, LABELS)[1],
    "focal": lambda: al.value_and_grad(al.softmax_focal_loss)(LOGITS, LABELS)[1],
    "function": lambda: al.log_softmax(LOGITS),
    "binary": lambda: al.sigmoid_focal_loss(LOGITS, LOGITS > 0, reduction="none"),
}


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_threads", lambda: 3)


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("name", CALLS)
def test_the_number_of_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    many = CALLS[name]()
    monkeypatch.setattr(library, "_threads", lambda: 1)
    np.testing.assert_array_equal(many, CALLS[name]())


@pytest.mark.usefixtures("three")
def test_blocks_run_at_the_same_time_and_each_once() -> None:
    together = threading.Barrier(3, timeout=30)
    seen = []

    def task(block: Any) -> None:
        together.wait()
        seen.append(block[0].start)

    before = threading.active_count()
    library._in_threads(task, BLOCKS)
    assert sorted(seen) == list(range(6))
    assert threading.active_count() == before


@pytest.mark.usefixtures("three")
def test_a_thread_of_the_callers_own_is_all_there_is() -> None:
    seen = []
    with ThreadPoolExecutor(1) as pool:
        pool.submit(library._in_threads, lambda _: seen.append(threading.get_ident()), BLOCKS).result()
    assert len(seen) == 6
    assert len(set(seen)) == 1
    assert seen[0] != threading.get_ident()


@pytest.mark.usefixtures("three")
def test_what_a_block_raises_is_raised() -> None:
    def task(block: Any) -> None:
        if block[0].start == 1:
            raise ZeroDivisionError("in a block")

    with pytest.raises(ZeroDivisionError, match="in a block"):
        library._in_threads(task, BLOCKS)


@pytest.mark.usefixtures("three")
def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = CALLS["gradient"]()

    def refused(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refused)
    np.testing.assert_array_equal(CALLS["gradient"](), expected)


@pytest.mark.usefixtures("three")
def test_no_block_warns() -> None:
    # Warnings are errors here; the errors that are left out are those of a context, which each thread has its own of.
    x = LOGITS.copy()
    x[::7, 3], x[1::7, 5], x[2::7] = np.inf, np.nan, 1e4
    value, gradient = al.value_and_grad(al.cross_entropy)(x, LABELS, reduction="none", cotangent=np.ones(len(x)))
    assert np.isnan(value[1::7]).all()
    assert np.isfinite(gradient[3::7]).all()


@pytest.mark.parametrize(("asked", "threads"), [("1", 1), ("2", 2), ("2,4", 2), ("", 4), ("all", 4), ("0", 1)])
def test_as_many_threads_as_asked_for(monkeypatch: pytest.MonkeyPatch, asked: str, threads: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert library._threads() == threads


def test_as_many_threads_as_cores_but_not_more_than_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert library._threads() == 8
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert library._threads() == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_computes_on() -> None:
    program = """
import os, sys, numpy as np, arrayloss as al
from arrayloss._libraries import numpy as library
library._threads = lambda: 3
x, t = np.random.default_rng(0).standard_normal((9000, 500), dtype=np.float32), np.zeros(9000, int)
before = al.cross_entropy(x, t)
child = os.fork()
after = al.cross_entropy(x, t)
if child == 0:
    os._exit(0 if after == before else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=100, check=False).returncode == 0


@pytest.mark.parametrize("n", [1, 2, 7, 127, 128, 129, 1000, 1013, 5000, 40000])
@pytest.mark.parametrize("value", [None, 1.1234567])
def test_row_sums_are_as_good_as_pairwise_ones(n: int, value: float | None) -> None:
    rows = np.random.default_rng(n).random((5, n), dtype=np.float32) if value is None else np.full((5, n), value)
    rows = rows.astype(np.float32)
    exact = np.sum(rows, axis=1, dtype=np.float64)
    for sums in (library._row_sums(rows), library._column_sums(np.stack([rows.T, rows.T]))[1]):
        assert sums.dtype == np.float32
        np.testing.assert_allclose(sums, exact, rtol=3 * 2.0**-23)
