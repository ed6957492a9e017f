"""No preset imports the library that it is named after."""

import subprocess
import sys

import pytest

MODULES = ["torch", "torchvision", "optax", "keras", "sklearn", "onnx"]


@pytest.mark.parametrize("module", MODULES)
def test_a_preset_does_not_import_its_original(module: str) -> None:
    code = f"import sys, arrayloss.compat.{module}; print(*{{m.partition('.')[0] for m in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {*MODULES, "jax", "tensorflow"} & set(loaded)
