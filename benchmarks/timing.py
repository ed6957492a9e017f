"""Interleaved timing: the calls take turns, round after round, so that a disturbance hits all of them."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping

Call = Callable[[], object]

# A call that is shorter than this, in seconds, is timed several times in a row.
_LEAST = 2e-3


# From glibc's <malloc.h>; the last is the largest value that M_MMAP_THRESHOLD can have.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST_MMAP_THRESHOLD = 32 * 2**20


def keep_freed_memory() -> None:
    """From now on, glibc keeps freed blocks of up to 32 MiB instead of returning them to the system.

    Without this, the next call must ask for the memory again: up to 12,000 page faults, 10 ms in a call of 3.5 ms.
    It hits the side that comes next: the ratio of the same two calls was 0.6 in one run and 1.7 in another.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD)


def medians(calls: Mapping[str, Call], seconds: float, rounds: int = 5, pause: float = 0.0) -> dict[str, float]:
    """The median time of each call, in seconds.

    All of them together are measured for about `seconds`, each at least `rounds` times. `pause` is the time to wait
    before each call, in seconds.
    """
    repeats = {name: _repeats(call) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    gc.collect()
    gc.disable()
    try:
        while time.perf_counter() < end or len(next(iter(times.values()))) < rounds:
            for name, call in calls.items():
                time.sleep(pause)
                times[name].append(_timed(call, repeats[name]))
    finally:
        gc.enable()
    return {name: statistics.median(found) for name, found in times.items()}


def _timed(call: Call, repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - began) / repeats


def _repeats(call: Call) -> int:
    call()  # compiles, and uses the memory for the first time
    call()
    return max(1, round(_LEAST / max(_timed(call, 1), 1e-7)))
