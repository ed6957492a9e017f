"""What is installed: the package with its types, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import arrayloss

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_has_the_package_and_its_types_and_no_more(tmp_path: Path) -> None:
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    run("build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), cwd=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(f"arrayloss-{arrayloss.__version__}.dist-info/METADATA").decode()
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "arrayloss").rglob("*.py")}
    ours |= {f"{module}.py" for module in PROJECT["entry-points"]["pytest11"].values()}
    vectors = {f"arrayloss/testing/vectors/{path.name}" for path in (ROOT / "conformance/vectors").iterdir()}
    assert {name for name in names if ".dist-info/" not in name} == ours | vectors | {"arrayloss/py.typed"}
    # torch and JAX are extras: none is needed.
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert {re.split(r"[ <>=]", line)[1] for line in needed} == {"array-api-compat", "numpy"}


def test_the_versions_of_python_are_said_once() -> None:
    classified = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    assert PROJECT["requires-python"] == f">={classified[0]}"
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    assert f'python: ["{classified[0]}", "{classified[-1]}"]' in workflow
