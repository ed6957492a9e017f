"""`python -m arrayloss`: what is installed, and what works with it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import arrayloss
from arrayloss import __main__ as command
from arrayloss.testing import Backend, backends

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {modules!r}:
            raise {error}

sys.meta_path.insert(0, Blocked())
from arrayloss.__main__ import main
sys.exit(main([]))
"""


def blocked(modules: list[str], error: str) -> subprocess.CompletedProcess[str]:
    code = BLOCKED.format(modules=modules, error=error)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_it_names_every_library_and_what_is_here_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"arrayloss {arrayloss.__version__}, ")
    lines = dict(re.findall(r"^  (\S+) .*(ok|not here: .+)$", said, re.M))
    assert {backend.name: backend.missing() for backend in backends()} == {
        name: None if result == "ok" else result.removeprefix("not here: ") for name, result in lines.items()
    }
    assert re.search(rf"^  numpy +{re.escape(np.__version__)} +ok$", said, re.M)


def test_with_numpy_alone() -> None:
    others = ["torch", "jax", "dask", "array_api_strict", "cupy"]
    done = blocked(others, "ModuleNotFoundError(name)")
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"not here: \w+ is not installed$", done.stdout, re.M)) == 7


def test_an_installation_that_does_not_import() -> None:
    others = ["torch", "jax", "dask", "cupy"]
    done = blocked(others, "ImportError('libcudart.so.12: no such file')")
    assert done.returncode == 1, done.stderr
    assert "ImportError: libcudart.so.12: no such file" in done.stdout


@pytest.mark.parametrize(
    ("evaluate", "said"),
    [
        (lambda *_: {"value": np.asarray(1.0), "closed d logits": np.zeros((2, 2))}, r"wrong value: 1\.0"),
        (lambda *_: {"value": np.log(8 / 3), "closed d logits": np.zeros((2, 2))}, r"wrong closed d logits: \[\["),
        (lambda *_: {}["nothing"], r"KeyError: 'nothing'"),
    ],
)
def test_what_is_wrong_is_said(
    evaluate: Callable[..., Any], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Backend("numpy")
    monkeypatch.setattr(broken, "evaluate", evaluate, raising=False)
    monkeypatch.setattr(command, "backends", lambda: [broken])
    assert command.main([]) == 1
    assert re.search(said, capsys.readouterr().out)


def test_compiled(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("jax")
    monkeypatch.setattr(command, "backends", lambda: [one for one in backends() if one.name == "jax:cpu"])
    assert command.main(["--compile"]) == 0
    lines = re.findall(r"^  (jax:cpu\S*(?: jax.jit)?) .*ok$", capsys.readouterr().out, re.M)
    assert lines == ["jax:cpu", "jax:cpu, jax.jit"]
