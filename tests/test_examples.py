"""The examples run as a user would run them, and the notebooks print what is committed."""

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py") if not path.name.startswith("test_"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_script(name: str) -> None:
    for library in re.findall(
        r"^(?:import|from) (torch|jax|optax|dask|sklearn)\b", (EXAMPLES / name).read_text(), re.M
    ):
        pytest.importorskip(library, reason=f"{library}, which the example uses, is not installed")
    ran = subprocess.run([sys.executable, "-W", "error", EXAMPLES / name], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout


def printed(notebook: Any) -> list[tuple[str, str]]:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [(cell.source, "".join(o.text for o in cell.outputs if o.name == "stdout")) for cell in cells]


@pytest.mark.parametrize("name", ["tutorial.ipynb", "original_tutorial.ipynb"])
def test_notebook(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for needed in ("nbformat", "nbclient", "ipykernel", "torch", "jax"):
        pytest.importorskip(needed, reason=f"{needed}, which the notebook needs, is not installed")
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    committed = nbformat.read(EXAMPLES / name, as_version=4)
    executed = NotebookClient(copy.deepcopy(committed), timeout=300, coalesce_streams=True).execute()
    assert printed(executed) == printed(committed)
