"""What is installed: the package with its types, and nothing else; and what a user's type checker makes of it."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
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
    vectors = {f"arrayloss/testing/vectors/{path.name}" for path in (ROOT / "conformance/vectors").iterdir()}
    assert {name for name in names if ".dist-info/" not in name} == ours | vectors | {"arrayloss/py.typed"}
    # torch and JAX are extras: none is needed.
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert {re.split(r"[ <>=]", line)[1] for line in needed} == {"array-api-compat", "numpy"}


SNIPPET = """
import numpy as np
import numpy.typing as npt
import torch

import arrayloss as al
from arrayloss.compat import torch as like_torch

def of_numpy(x: npt.NDArray[np.float32], y: npt.NDArray[np.int64]) -> None:
    reveal_type(al.softmax(x))
    reveal_type(al.cross_entropy(x, y, label_smoothing=0.1, reduction=al.Mean(over="all")))
    reveal_type(al.value_and_grad(al.cross_entropy)(x, y))

def of_torch(x: torch.Tensor, y: torch.Tensor) -> None:
    reveal_type(al.log_sigmoid(x))
    reveal_type(al.sigmoid_focal_loss(x, y, alpha=0.25))
    reveal_type(like_torch.cross_entropy(x, y))
    reveal_type(al.grad(al.sigmoid_focal_loss)(x, y))
"""


def test_a_type_checker_finds_the_type_of_the_array_that_went_in(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    pytest.importorskip("torch")
    (tmp_path / "snippet.py").write_text(textwrap.dedent(SNIPPET))
    arguments = ("--strict", "--cache-dir", str(ROOT / ".mypy_cache"), str(tmp_path / "snippet.py"))
    said = run("mypy", "--config-file", "", *arguments, cwd=ROOT)
    revealed = re.findall(r'Revealed type is "(.*)"', said)
    of_numpy = r"numpy\.ndarray\[.*(?:float32|_32Bit).*\]"
    expected = [of_numpy, of_numpy, rf"tuple\[{of_numpy}, {of_numpy}\]", *["torch.*Tensor"] * 4]
    assert len(revealed) == len(expected)
    for found, wanted in zip(revealed, expected, strict=True):
        assert re.fullmatch(wanted, found), f"{found} where {wanted} was due"


def test_the_versions_of_python_are_said_once() -> None:
    classified = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    assert PROJECT["requires-python"] == f">={classified[0]}"
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    assert f'python: ["{classified[0]}", "{classified[-1]}"]' in workflow
