"""`.ci/device`, tried on a CPU: every part of it but the device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from conformance import device
from conformance.compare import read

ROOT = Path(__file__).parents[1]


def wheel(folder: Path) -> None:
    """A package of one empty module."""
    with zipfile.ZipFile(folder / "carried-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("carried.py", "")
        about = {"METADATA": "Metadata-Version: 2.1\nName: carried\nVersion: 1.0\n"}
        about["WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        for name, text in about.items():
            archive.writestr(f"carried-1.0.dist-info/{name}", text)
        archive.writestr("carried-1.0.dist-info/RECORD", "")


def test_a_dry_run(tmp_path: Path) -> None:
    for library in ("torch", "jax", "optax"):
        pytest.importorskip(library)
    wheels, out = tmp_path / "wheels", tmp_path / "out"
    wheels.mkdir()
    wheel(wheels)
    # An interpreter that looks first whether the package that it was carried is there.
    python, here = tmp_path / "python", sys.executable
    python.write_text(f'#!/bin/sh\n[ "$2" = pip ] || {here} -c "import carried" || exit 3\nexec {here} "$@"\n')
    python.chmod(0o755)
    command = ["bash", str(ROOT / ".ci/device"), str(wheels), str(out), "--dry"]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHON": str(python), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    said = (out / "device.md").read_text()
    assert "a dry run on a CPU, no device" in said
    rows = dict(line.strip("| ").split(" | ")[::2] for line in said.splitlines() if line.startswith("| "))
    assert [name for name in rows if name in device.PARTS] == [
        name for name in device.PARTS if name not in device.ONLY_ON_A_DEVICE
    ]
    for name, place in (("torch eager", "torch:cpu"), ("CuPy", "numpy"), ("jax.jit", "jax:cpu")):
        assert rows[f"conformance, {name}"].startswith(f"{place} "), said
        assert ": 0 of " in rows[f"conformance, {name}"], said
    assert rows["tests"].startswith("exit code 0: 1 passed"), said
    for name in ("torch", "JAX"):
        assert "rows measured, 0 not; exit code 0" in rows[f"benchmarks, {name}"], said

    results = read(out / "results.json")
    assert {c["backend"] for c in results["cells"]} == {"torch:cpu", "numpy", "jax:cpu"}
    assert not any(c["failed"] for c in results["cells"])
    assert set(results["about"]["devices"]) == {"cpu"}
    figures = json.loads((out / "benchmarks.json").read_text())
    assert {row["work"].split()[0] for row in figures["rows"] if not row["not run"]} == {"torch:cpu", "jax:cpu"}
    assert all(row["ours"] > 0 and row["of a copy"] > 0 for row in figures["rows"] if not row["not run"])
    assert figures["about"]["devices"] == []
    for name in ("summary.md", "benchmarks.md"):
        assert "a dry run on a CPU, no device" in (out / name).read_text()
        assert "cuda" not in (out / name).read_text().lower()
    assert len(list(out.iterdir())) <= 8  # what comes back from a lent machine


def test_without_a_device_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not all(device.backend(name).missing() for name in device.PLACES):
        pytest.skip("there is a device")
    assert device.main([str(tmp_path / "out")]) == 1
    assert "There is no device" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_time_is_up_for_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that fails does not keep the next from its turn; each is written down as it ends."""

    def failing(run: device.Run) -> str:
        raise RuntimeError("broken\nand more")

    def last(run: device.Run) -> str:
        assert "| first | 0 | RuntimeError: broken |" in (run.out / "device.md").read_text()
        run.end = 0.0
        return "ended"

    parts = {"first": failing, "second": last, "third": last}
    monkeypatch.setattr(device, "PARTS", parts)
    assert device.main([str(tmp_path), "--dry"]) == 0
    said = (tmp_path / "device.md").read_text()
    assert "| second | 0 | ended |" in said
    assert "| third | 0 | not begun: the time was up |" in said


def test_a_part_is_ended_at_its_limit(tmp_path: Path) -> None:
    import time

    run = device.Run(tmp_path, dry=True, end=time.monotonic() + 1)
    assert run.command(("timeit", "-n", "1", "-r", "1", "__import__('time').sleep(60)"), 60).startswith("ended at")
