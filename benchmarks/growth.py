"""How time and memory grow with the size: one figure with logarithmic axes, for our losses and each peer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import arrayloss
from benchmarks import memory, timing
from benchmarks.rows import rows

CLASSES = 100
WORK = (
    "numpy cross_entropy",
    "torch cross_entropy forward + backward",
    "jax.jit cross_entropy value + grad",
)


def plot(file: Path, largest: float) -> None:
    """Draw the figure, with one panel for each row of `WORK` that can be measured here."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    present = [r for r in {r.work: r for r in rows(["1"])}.values() if r.work in WORK and r.missing() is None]
    figure, axes = pyplot.subplots(2, len(present), figsize=(4.2 * len(present), 7), sharex=True, squeeze=False)
    sizes = [10**n for n in range(2, 20) if 10**n <= largest]
    for row, (upper, lower) in zip(present, axes.T, strict=True):
        peak = memory.PEAK.get(row.library)
        times: dict[str, list[float]] = {"arrayloss": [], row.peer.name: []}
        used: dict[str, list[float]] = {"arrayloss": [], row.peer.name: []}
        for size in sizes:
            sized = replace(row, shape=(size // CLASSES, CLASSES))
            contest = sized.contest(sized, arrayloss)
            calls = {"arrayloss": contest.ours, row.peer.name: contest.theirs}
            for who, seconds in timing.medians(calls, 0.5, rounds=3).items():
                times[who].append(seconds * 1e3)
                used[who].append(peak(calls[who]) / 2**20 if peak else float("nan"))
        for who in times:
            upper.loglog(sizes, times[who], marker="o", markersize=3, label=who)
            if peak:
                lower.loglog(sizes, used[who], marker="o", markersize=3, label=who)
        upper.set_title(row.work, fontsize=10)
        upper.set_ylabel("ms")
        upper.legend(fontsize=8)
        lower.set_ylabel("MiB beyond the inputs" if peak else "not measured")
        lower.set_xlabel(f"logits ({CLASSES} classes)")
    figure.tight_layout()
    figure.savefig(file)
