"""No preset imports the library that it is named after."""

import subprocess
import sys

MODULES = ["torch", "torchvision", "optax", "keras", "sklearn", "onnx", "kornia", "monai"]


def test_a_preset_does_not_import_its_original() -> None:
    modules = ", ".join(f"arrayloss.compat.{module}" for module in MODULES)
    code = f"import sys, {modules}; print(*{{m.partition('.')[0] for m in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {*MODULES, "jax", "tensorflow"} & set(loaded)
