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
    assert {name for name in names if ".dist-info/" not in name} == ours | {"arrayloss/py.typed"}
    # torch and JAX are extras: none is needed.
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert {re.split(r"[ <>=]", line)[1] for line in needed} == {"array-api-compat", "numpy"}


def test_the_suite_is_a_package_of_its_own_that_runs_where_it_is_installed(tmp_path: Path) -> None:
    for needed in ("build", "hatchling", "flint", "rich", "ml_dtypes", "array_api_strict"):
        pytest.importorskip(needed)
    for folder in (ROOT, ROOT / "conformance"):
        run("build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), cwd=folder)
    installed = tmp_path / "site-packages"
    for wheel in tmp_path.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(installed)
    suite = ROOT / "conformance"
    files = [*suite.glob("*.py"), *suite.glob("*.json"), *suite.glob("*.html"), *(suite / "vectors").iterdir()]
    shipped = [path for path in (installed / "arrayloss_conformance").rglob("*") if path.is_file()]
    assert {path.relative_to(installed / "arrayloss_conformance") for path in shipped} == {
        path.relative_to(suite) for path in files
    }
    # The command, for a function in the folder it is called from, which is no other.
    (tmp_path / "mine.py").write_text("from arrayloss import sigmoid\n")
    command = (
        "import sys; sys.path[0] = sys.argv.pop(1); import importlib.metadata as m; "
        "(command,) = m.entry_points(group='console_scripts', name='arrayloss-conformance'); sys.exit(command.load()())"
    )
    asked = ["--candidate", "mine:sigmoid", "--dtype", "float32", "--family", "vectors", "--family", "margins"]
    done = subprocess.run(
        [sys.executable, "-c", command, str(installed), *asked],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"in [1-9]\d* records, of which 0 failed", done.stdout)


def test_both_packages_say_the_same() -> None:
    suite = tomllib.loads((ROOT / "conformance/pyproject.toml").read_text())["project"]
    assert suite["version"] == arrayloss.__version__
    assert suite["requires-python"] == PROJECT["requires-python"]
    versions = [line for line in PROJECT["classifiers"] if "Python :: 3" in line]
    assert [line for line in suite["classifiers"] if "Python :: 3" in line] == versions
    assert (ROOT / "conformance/LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert f"\nversion: {arrayloss.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_no_placeholder_is_left() -> None:
    """There is no public address yet: none may be invented."""
    for name in ("pyproject.toml", "conformance/pyproject.toml", "CITATION.cff", "SECURITY.md", "CODE_OF_CONDUCT.md"):
        found = re.findall(r"example\.(?:com|org)|github\.com/|TODO|FIXME|\bOWNER\b", (ROOT / name).read_text())
        assert not found, name


def test_the_versions_of_python_are_said_once() -> None:
    classified = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    assert PROJECT["requires-python"] == f">={classified[0]}"
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    assert f'python: ["{classified[0]}", "{classified[-1]}"]' in workflow
