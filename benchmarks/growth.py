"""How time and memory grow with the size, ours and each peer's: one figure, log-log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import memory, rows, timing

CLASSES = 100


def plot(file: Path, largest: float) -> None:
    """Draw the figure; a panel for each library that is here."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    present = [(name, work, peak) for name, library, work, peak in _panels() if rows.missing(library) is None]
    figure, axes = pyplot.subplots(2, len(present), figsize=(4.2 * len(present), 7), sharex=True, squeeze=False)
    for (name, work, peak), (upper, lower) in zip(present, axes.T, strict=True):
        found: dict[str, list[tuple[int, float, float]]] = {}
        for elements in _sizes(largest):
            shape = (max(1, elements // CLASSES), CLASSES)
            contest = work(rows.Row(name, "", "", shape, 0, 0, work))
            calls = {"arrayloss": contest.ours, "the library's own": contest.theirs}
            times = timing.medians(calls, 0.5, rounds=3)
            for who, call in calls.items():
                used = peak(call) if peak else float("nan")
                found.setdefault(who, []).append((shape[0] * CLASSES, times[who] * 1e3, used / 2**20))
        for who, line in found.items():
            sizes, times_ms, mebibytes = zip(*line, strict=True)
            upper.loglog(sizes, times_ms, marker="o", markersize=3, label=who)
            if peak:
                lower.loglog(sizes, mebibytes, marker="o", markersize=3, label=who)
        upper.set_title(name, fontsize=10)
        upper.set_ylabel("ms")
        lower.set_ylabel("MiB beyond the inputs" if peak else "not measured: XLA allocates by itself")
        lower.set_xlabel(f"logits ({CLASSES} classes)")
        upper.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file)


def _sizes(largest: float) -> Iterator[int]:
    size = 100
    while size <= largest:
        yield size
        size *= 10


def _panels() -> Iterator[tuple[str, str, Callable[[Any], Any], Callable[[Any], int] | None]]:
    yield "numpy cross_entropy / scipy", "numpy", rows.numpy_value, memory.of_numpy
    yield "torch cross_entropy forward + backward", "torch", rows.torch_cross_entropy, memory.of_torch
    yield "jax.jit cross_entropy value + grad / optax", "jax", rows.jax_cross_entropy, None
