"""How the time of a loss grows with the devices that it is shared out over: `python -m benchmarks.sharded_growth FILE`.

The devices are virtual and share the cores of this machine: the work of all of them together is the same for any
number, so that a time that stays level says that sharing out costs nothing. How fast real devices are, it can't say.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import arrayloss as al
from benchmarks import timing
from benchmarks.rows import logits

SHAPE = (2048, 4096)
NUMBERS = (1, 2, 4, 8)
WAYS = {"by samples": ("0", None), "by classes": (None, "0")}


def measured(seconds: float) -> dict[tuple[str, str], list[float]]:
    """Milliseconds of value and gradient for each of `NUMBERS` of devices, by library and way."""
    import jax
    import numpy as np
    import optax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    def theirs(x: Any, t: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(x, t).mean()

    x = logits(SHAPE, "3")
    t = np.random.default_rng(0).integers(0, SHAPE[1], SHAPE[0]).astype(np.int32)
    calls: dict[str, timing.Call] = {}
    for n in NUMBERS:
        mesh = Mesh(np.array(jax.devices()[:n]), ("0",))
        for way, along in WAYS.items():
            of_x, of_t = PartitionSpec(*along), PartitionSpec(along[0])  # type: ignore[no-untyped-call]
            arrays = jax.device_put((x, t), (NamedSharding(mesh, of_x), NamedSharding(mesh, of_t)))
            for library, loss in (("arrayloss", al.cross_entropy), ("optax", theirs)):
                compiled = jax.jit(jax.value_and_grad(loss)).lower(*arrays).compile()
                calls[f"{library}, {way}, {n}"] = partial(_finished, compiled, arrays)
    times = timing.medians(calls, seconds)
    return {
        (library, way): [1e3 * times[f"{library}, {way}, {n}"] for n in NUMBERS]
        for library in ("arrayloss", "optax")
        for way in WAYS
    }


def _finished(f: Any, arrays: Any) -> None:
    for result in f(*arrays):
        result.block_until_ready()


def plot(found: dict[tuple[str, str], list[float]], file: str) -> None:
    """Each time divided by that of one device."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    ink = "#767676"
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "arrayloss",
        "savefig.transparent": True,
        "legend.frameon": False,
    }
    style |= {f"{one}.color": ink for one in ("text", "xtick", "ytick", "grid")}
    style |= {"axes.edgecolor": ink, "axes.labelcolor": ink, "axes.spines.right": False, "axes.spines.top": False}
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(6.4, 3.4))
        for (library, way), times in found.items():
            colour, dashes = (
                ("#1f8a5b" if library == "arrayloss" else "#d1495b"),
                ("-" if way == "by samples" else "--"),
            )
            ratios = [time / times[0] for time in times]
            axes.plot(NUMBERS, ratios, dashes, color=colour, marker="o", markersize=3, label=f"{library}, {way}")
        axes.set_xscale("log", base=2, nonpositive="clip")
        axes.set_xticks(NUMBERS, [str(n) for n in NUMBERS])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("virtual devices, which share the cores of one machine")
        axes.set_ylabel("time / time on one")
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
        figure.tight_layout()
        figure.savefig(file, metadata={"Date": None})


def main(file: str, seconds: float = 20.0) -> None:
    import jax

    jax.config.update("jax_num_cpu_devices", NUMBERS[-1])  # type: ignore[no-untyped-call]
    timing.keep_freed_memory()
    found = measured(seconds)
    for (library, way), times in found.items():
        print(f"{library}, {way}:", *(f"{time:.1f}" for time in times), "ms")
    plot(found, file)


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:]))
