"""Interleaved timing: every contestant in turn, round after round, so that what disturbs one disturbs all."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping

Call = Callable[[], object]

# A timing below this is made of several calls.
_LEAST = 2e-3


# glibc's <malloc.h>; the second may be no larger.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST_MMAP_THRESHOLD = 32 * 2**20


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, of up to 32 MiB, from now on.

    Given back to the system and taken anew, it was up to 12,000 page faults and 10 ms in a call of 3.5 ms, of whichever
    side came next: medians of the same two calls were 0.6 and 1.7 of each other.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD)


def medians(calls: Mapping[str, Call], seconds: float, rounds: int = 5, pause: float = 0.0) -> dict[str, float]:
    """The median time of one call of each, measured for about `seconds` in all, `rounds` times at least.

    `pause` is what is waited for before each call, in seconds.
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
    call()  # compiles, and touches memory for the first time
    call()
    return max(1, round(_LEAST / max(_timed(call, 1), 1e-7)))
