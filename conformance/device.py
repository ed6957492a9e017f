"""`python -m conformance.device OUT`: all that a CUDA device can tell, in minutes; `.ci/device` runs it.

Judged are torch, CuPy and JAX on CUDA, by the quick run's cases; then come the tests that need a device, and the
benchmark's rows. The most important comes first, and what a part has found is in OUT when it ends:

- `device.md`: date, devices, versions, and what came of each part
- `index.html`, `results.json`, `summary.md`: the conformance report, of all parts so far
- `benchmarks.md`, `benchmarks.json`: the figures, library by library
- `log.txt`: what the tests and the benchmark printed

With `--dry` the same goes on the CPU with next to nothing in each part: it tries this program, and says nothing of a
device.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from arrayloss.testing import backend
from conformance import failures, plan, report, runner, share
from conformance.backends import versions
from conformance.runner import Result, Selection, Spreads

ROOT = Path(__file__).parents[1]
PLACES = ("torch:cuda", "cupy", "jax:cuda")
DRY = {"torch:cuda": "torch:cpu", "cupy": "numpy", "jax:cuda": "jax:cpu"}
"""What stands in for each in a dry run."""

DRY_ROWS = {
    "torch:cuda": "torch:cuda cross_entropy forward + backward, bfloat16 4096x1000",
    "cupy": "cupy cross_entropy 4096x1000",
    "jax:cuda": "jax:cuda cross_entropy value + grad 4096x1000",
}
"""What of each library's rows a dry run takes."""

DEADLINE = 500.0
"""Seconds after which no part is begun, and none goes on for longer than what it is at."""

# What other packages deprecate is not ours to mend there.
PYTEST = ("pytest", "-q", "-p", "no:cacheprovider", "-W", "default::DeprecationWarning", "-W", "default::FutureWarning")


@dataclass
class Run:
    """What has been found so far, and where it is written."""

    out: Path
    dry: bool
    end: float
    results: list[Result] = field(default_factory=list)
    spreads: Spreads = field(default_factory=dict)
    parts: list[tuple[str, float, str]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)

    def place(self, name: str) -> str:
        """Where that is run: the device, or in a dry run what stands in for it."""
        return DRY[name] if self.dry else name

    def left(self, seconds: float) -> float:
        """How long a part may take that may take `seconds`."""
        return max(1.0, min(seconds, self.end - time.monotonic()))

    def command(self, arguments: tuple[str, ...], seconds: float) -> str:
        """What `python -m` said of these arguments, last and in one line; it is ended after so many seconds."""
        command = [sys.executable, "-m", *arguments]
        with (self.out / "log.txt").open("a") as log:
            print(f"\n$ python -m {' '.join(arguments)}", file=log, flush=True)
            begun = log.tell()
            try:
                done = subprocess.run(
                    command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, timeout=self.left(seconds), check=False
                )
                ended = f"exit code {done.returncode}"
            except subprocess.TimeoutExpired:
                ended = "ended at its limit"
        said = (self.out / "log.txt").read_text(errors="replace")[begun:].strip().splitlines()
        return f"{ended}: {said[-1].strip('= ')}" if said else ended


def judged(name: str, modes: tuple[str, ...], seconds: float, run: Run) -> str:
    """The quick run's cases of one library in some of its modes; a report of all so far."""
    asked = Selection(backends=(run.place(name),), modes=modes, quick=True, planned=True)
    workers = min(6, os.cpu_count() or 1)
    if run.dry:
        asked = Selection(("cross_entropy",), asked.backends, modes, ("float32",), ("dominating",), quick=True)
        workers = 1
    end, before = time.monotonic() + run.left(seconds), len(run.results)
    tasks = share.tasks(share.OURS, asked)
    working = share.run(tasks, workers)
    done = 0
    for found, apart in working:
        run.results += found
        runner.widen(run.spreads, apart)
        done += 1
        if time.monotonic() > end:
            working.close()
    judged_now = [r for r in run.results[before:] if r.mode]
    _report(run)
    failed = sum(r.failed for r in judged_now)
    missing = "; ".join({r.reason for r in run.results[before:] if not r.mode})
    cut = "" if done == len(tasks) else f", {done} of {len(tasks)} tasks"
    said = f"not run: {missing}" if not judged_now else f"{failed} of {len(judged_now):,} records failed{cut}"
    return f"{run.place(name)} {' and '.join(modes)}: {said}"


def _report(run: Run) -> None:
    failed = failures.gather(run.results, share.OURS.implementations(), shrunk=2, seconds=3.0)
    spreads = list(run.spreads.values())
    sections = {"Where": _about(run), "Left out": plan.left_out(quick=True)}
    whole = report.document(run.results, spreads, failed, _title(run), sections)
    report.write(whole, run.results, failed, run.out)


def tested(seconds: float, run: Run) -> str:
    """The tests that need a device, and the semantics on it."""
    asked: tuple[str, ...] = ("tests/test_device.py", "tests/test_semantics.py", "-n", "4", "-k", "cuda or cupy")
    if run.dry:
        asked = ("tests/test_device.py", "-n", "0", "-k", "combinations")
    return run.command((*PYTEST, *asked), seconds)


def timed(name: str, seconds: float, run: Run) -> str:
    """The benchmark's rows of one library, in a process of its own, which has the memory for itself."""
    asked = (DRY_ROWS[name], "--dry", "--seconds", "0.01") if run.dry else (name, "--seconds", "1")
    with tempfile.TemporaryDirectory() as room:
        data, table = Path(room) / "rows.json", Path(room) / "rows.md"
        said = run.command(("benchmarks", *asked, "--json", str(data), "--report", str(table)), seconds)
        if not data.exists():
            return said
        found = json.loads(data.read_text())
        run.rows += found["rows"]
        heading = name.replace(":cuda", ":cpu") if run.dry else name
        run.tables.append(table.read_text().replace("# Benchmarks", f"## {heading}", 1))
    whole = {"about": found["about"] | {"title": _title(run)}, "rows": run.rows}
    (run.out / "benchmarks.json").write_text(json.dumps(whole, indent=1) + "\n")
    (run.out / "benchmarks.md").write_text("\n".join([f"# Benchmarks: {_title(run)}\n", *run.tables]))
    measured = [row for row in found["rows"] if not row["not run"]]
    return f"{len(measured)} rows measured, {len(found['rows']) - len(measured)} not; {said.partition(':')[0]}"


PARTS: dict[str, Callable[[Run], str]] = {
    "conformance, torch eager": partial(judged, "torch:cuda", ("eager",), 70),
    "conformance, CuPy": partial(judged, "cupy", ("eager",), 80),
    "conformance, jax.jit": partial(judged, "jax:cuda", ("jax.jit",), 80),
    "tests": partial(tested, 100),
    "benchmarks, torch": partial(timed, "torch:cuda", 110),
    "conformance, torch.compile": partial(judged, "torch:cuda", ("torch.compile",), 90),
    "benchmarks, CuPy": partial(timed, "cupy", 60),
    "benchmarks, JAX": partial(timed, "jax:cuda", 60),
}
"""What is run, the most important first, each with the seconds that it may take."""

ONLY_ON_A_DEVICE = ("conformance, torch.compile",)
"""What a dry run spares, since another part goes the same way: to compile takes longer than all the rest of it."""


def _title(run: Run) -> str:
    return "a dry run on a CPU, no device" if run.dry else "on a device"


def _about(run: Run) -> str:
    ran = {r.backend for r in run.results if r.mode and r.status != "not run"}
    where = ", ".join(f"{name} on {device}" for name, device in report.devices(sorted(ran)).items())
    return f"{_title(run)}: {where or 'nothing yet'}"


def _write(run: Run) -> None:
    packages = ", ".join(f"{name} {number}" for name, number in versions().items())
    lines = [
        f"# What was run: {_title(run)}",
        "",
        f"{datetime.now(UTC).isoformat(timespec='seconds')}; Python {sys.version.split()[0]}; {packages}",
        "",
        _about(run),
        "",
        "| part | s | what came of it |",
        "| --- | --- | --- |",
        *(f"| {name} | {took:.0f} | {said.replace('|', '/')} |" for name, took, said in run.parts),
    ]
    (run.out / "device.md").write_text("\n".join(lines) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Run all parts for as long as there is time; 1 where there is no device."""
    parser = argparse.ArgumentParser(prog="python -m conformance.device", description=__doc__.partition("\n")[0])
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder that the results are written to")
    parser.add_argument("--dry", action="store_true", help="try the program on the CPU")
    parser.add_argument("--seconds", type=float, default=DEADLINE, help="after which no part is begun")
    asked = parser.parse_args(arguments)
    reasons = {name: backend(name).missing() for name in PLACES}
    if not asked.dry and all(reasons.values()):
        print("; ".join(f"{name}: {reason}" for name, reason in reasons.items()), file=sys.stderr)
        print("There is no device; --dry tries this program on the CPU.", file=sys.stderr)
        return 1
    asked.out.mkdir(parents=True, exist_ok=True)
    # Several processes and libraries share the memory of one device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    run = Run(asked.out, asked.dry, time.monotonic() + asked.seconds)
    for name, part in PARTS.items():
        if run.dry and name in ONLY_ON_A_DEVICE:
            continue
        begun = time.monotonic()
        try:
            said = part(run) if begun < run.end else "not begun: the time was up"
        except Exception as error:  # the parts that follow have a device as well
            said = f"{type(error).__name__}: {error}".partition("\n")[0]
        run.parts.append((name, time.monotonic() - begun, said))
        _write(run)
        print(f"{name}: {said}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
