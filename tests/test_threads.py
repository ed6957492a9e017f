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

LOGITS = np.random.default_rng(0).standard_normal((9000, 500), dtype=np.float32)
LABELS = np.random.default_rng(1).integers(0, 500, 9000)
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
    monkeypatch.setenv("OMP_NUM_THREADS", "3")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """The threads that are started."""
    found: list[threading.Thread] = []
    start = threading.Thread.start

    def noted(thread: threading.Thread) -> None:
        found.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", noted)
    return found


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("name", CALLS)
def test_the_number_of_threads_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, started: list[threading.Thread], name: str
) -> None:
    many = CALLS[name]()
    assert started
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    started.clear()
    np.testing.assert_array_equal(many, CALLS[name]())
    assert not started


@pytest.mark.usefixtures("three")
def test_no_thread_is_left_behind() -> None:
    before = threading.active_count()
    CALLS["gradient"]()
    assert threading.active_count() == before


@pytest.mark.usefixtures("three")
def test_a_thread_of_the_callers_own_is_all_there_is(started: list[threading.Thread]) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(CALLS["gradient"]).result()
    assert len(started) == 1  # the pool's


@pytest.mark.usefixtures("three")
def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = CALLS["gradient"]()

    def refused(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
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
def test_as_many_threads_as_asked_for(
    monkeypatch: pytest.MonkeyPatch, started: list[threading.Thread], asked: str, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    CALLS["value"]()
    assert len(started) <= threads - 1
    assert bool(started) == (threads > 1)


def test_as_many_threads_as_cores_but_not_more_than_eight(
    monkeypatch: pytest.MonkeyPatch, started: list[threading.Thread]
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    CALLS["value"]()
    assert 1 < len(started) < 8
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    started.clear()
    CALLS["value"]()
    assert not started


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_computes_on() -> None:
    program = """
import os, sys, numpy as np, arrayloss as al
x, t = np.random.default_rng(0).standard_normal((9000, 500), dtype=np.float32), np.zeros(9000, int)
before = al.cross_entropy(x, t)
child = os.fork()
after = al.cross_entropy(x, t)
if child == 0:
    os._exit(0 if after == before else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "3"}
    assert subprocess.run([sys.executable, "-c", program], env=environment, timeout=100, check=False).returncode == 0
