"""Peak memory: the most bytes that a call holds at once, with its result and without its inputs."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

Call = Callable[[], object]


def of_numpy(call: Call) -> int:
    """Counted by tracemalloc: NumPy reports every buffer to it."""
    call()
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        result = call()
        _, peak = tracemalloc.get_traced_memory()
        del result
        return peak - before
    finally:
        tracemalloc.stop()


def of_torch(call: Call) -> int:
    """Counted by torch's profiler, which sees every allocation on the CPU."""
    from torch.profiler import ProfilerActivity, profile

    call()
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        result = call()
    del result
    profiler: Any = seen.profiler
    held = most = 0
    for event in sorted(profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def of_cuda(call: Call) -> int:
    """Counted by torch on the device."""
    import torch

    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    most = torch.cuda.max_memory_allocated()
    del result
    return most - before


def of_cupy(call: Call) -> int:
    """Counted by CuPy's memory pool, of every block that it hands out and takes back."""
    import cupy

    class Held(cupy.cuda.MemoryHook):  # type: ignore[misc]  # CuPy has no types
        name = "held"
        held = most = 0

        def malloc_postprocess(self, **block: int) -> None:
            self.held += block["mem_size"]
            self.most = max(self.most, self.held)

        def free_postprocess(self, **block: int) -> None:
            self.held -= block["mem_size"]

    call()
    with Held() as seen:
        result = call()
    del result
    return int(seen.most)


PEAK: dict[str, Callable[[Call], int]] = {
    "numpy": of_numpy,
    "torch": of_torch,
    "torch:cpu": of_torch,
    "torch:cuda": of_cuda,
    "cupy": of_cupy,
}
"""How to measure each library. JAX has no way: XLA allocates by itself."""
