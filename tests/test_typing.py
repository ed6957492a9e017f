"""What a user's type checker knows of the package: every keyword, and the type of the array that comes back."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A line that ends with "# error" must be one; no other line may be. `# is` has the type that comes out.
SNIPPET = """
from typing import TypeAlias

import jax
import numpy as np
import numpy.typing as npt
import torch

import arrayloss as al
from arrayloss import Hardest, Mean, Sum
from arrayloss.compat import torch as like_torch
from arrayloss.extending import Problem, loss, problem
from arrayloss.nn.torch import CrossEntropyLoss, SoftmaxFocalLoss

both, alone = al.value_and_grad(al.cross_entropy), al.grad(al.sigmoid_focal_loss)
Floats: TypeAlias = npt.NDArray[np.float32]
Labels: TypeAlias = npt.NDArray[np.int64]


def of_numpy(x: Floats, y: Labels) -> None:
    reveal_type(al.softmax(x))  # is NumPy
    reveal_type(al.cross_entropy(x, y, label_smoothing=0.1, reduction=Mean(over="all")))  # is NumPy
    reveal_type(al.softmax_focal_loss(x, y, gamma=np.float32(2), alpha=x[0], reduction="none"))  # is NumPy
    reveal_type(al.poly_loss(x, y, epsilon=np.asarray(1.0), class_weight=x[0], reduction=Hardest(k=2)))  # is NumPy
    reveal_type(al.binary_cross_entropy_with_logits(x, y, pos_weight=x[0], ignore_index=-1))  # is NumPy
    reveal_type(al.kl_divergence_with_logits(x, x, axis=0, where=x[0] > 0, dtype=np.float64))  # is NumPy
    reveal_type(both(x, y))  # is pair
    reveal_type(both(x, y, reduction="none", cotangent=x[:, 0]))  # is pair
    reveal_type(problem(al.cross_entropy, x, y, axis=0))  # is Problem
    reveal_type(al.nll_loss(x, y, reduction=Mean(over=np.float32(3), empty="zero")))  # is NumPy
    reveal_type(al.binary_cross_entropy(x, x, reduction=Mean(over="valid")))  # is NumPy
    reveal_type(al.asymmetric_loss(x, y, reduction=Mean(over=x.sum())))  # is NumPy


def of_torch(x: torch.Tensor, y: torch.Tensor) -> None:
    reveal_type(al.log_sigmoid(x))  # is Tensor
    reveal_type(al.sigmoid_focal_loss(x, y, alpha=0.25, gamma=torch.tensor(2.0)))  # is Tensor
    reveal_type(like_torch.cross_entropy(x, y))  # is Tensor
    reveal_type(alone(x, y, gamma=1.0))  # is Tensor
    al.value_and_grad(like_torch.cross_entropy)(input=x, target=y)
    CrossEntropyLoss(reduction=Hardest(fraction=0.5))
    SoftmaxFocalLoss(gamma=1.0, reduction=Mean(over=torch.tensor(3.0)))


def of_jax(x: jax.Array, y: jax.Array) -> None:
    reveal_type(al.asymmetric_loss(x, y, margin=x[0], reduction=Mean(over=x[0])))  # is Array


@loss
def sum_of_cross_entropies(logits: Floats, target: object, /, *, s: float = 0.0) -> Problem[Floats]:
    return problem(al.cross_entropy, logits, target, label_smoothing=s, reduction="sum")


def wrong(x: Floats, y: Labels) -> None:
    sum_of_cross_entropies(x, y, s=0.1)
    sum_of_cross_entropies(x, y, t=0.1)  # error
    al.cross_entropy(x, y, reduction="maen")  # error
    al.cross_entropy(x, y, reduction=None)  # error
    al.cross_entropy(x, y, label_smothing=0.1)  # error
    al.cross_entropy(x, y, label_smoothing="0.1")  # error
    al.cross_entropy(x, y, axis="1")  # error
    al.cross_entropy(x, y, 1)  # error
    al.cross_entropy(logits=x, target=y)  # error
    al.cross_entropy(x)  # error
    al.softmax_focal_loss(x, y, gamma=[2.0])  # error
    al.binary_cross_entropy_with_logits(x, y, axis=1)  # error
    al.softmax(x, axis=None)  # error
    al.binary_cross_entropy_with_logits(x, y, reduction="maen")  # error
    al.kl_divergence_with_logits(x, x, reduction="summ")  # error
    al.cross_entropy(x, y, reduction=Mean)  # error
    Mean(over="vlaid")  # error
    Mean("vlaid")  # error
    Mean(over=None)  # error
    Mean(empty="none")  # error
    Mean(over="valid", empty=0)  # error
    Sum(over="all")  # error
    Hardest(fraction="0.5")  # error
    Hardest(k="3")  # error
    both(x, y, reduction="maen")  # error
    both(x, y, label_smothing=0.1)  # error
    both(x)  # error
    alone(x, y, gamma="2")  # error
    alone(x, y, reduction="maen")  # error
    problem(al.cross_entropy, x, y, axes=0)  # error
    al.value_and_grad(0.5)  # error
    CrossEntropyLoss(reduction="maen")  # error
    SoftmaxFocalLoss(gama=1.0)  # error
"""

TYPES = {
    "NumPy": r"(?:numpy\.)?ndarray\[.*(?:float32|_32Bit).*\]",
    "Tensor": r"(?:torch\._tensor\.)?Tensor",
    "Array": r"(?:jax.*\.)?Array",
    "Problem": r"(?:arrayloss\..*)?Problem\[(?:numpy\.)?ndarray\[.*\]\]",
}
TYPES["pair"] = rf"tuple\[{TYPES['NumPy']}, {TYPES['NumPy']}\]"
Said = tuple[set[int], dict[int, str]]
# What torch, JAX and the package's Dask backend import and an array's type has no part in: two thirds of what mypy
# would read.
LEFT_OUT = [
    *("_dynamo", "_export", "_functorch", "_higher_order_ops", "_inductor", "ao", "distributed", "distributions"),
    *("export", "fx", "jit", "onnx", "testing"),
]
LEFT_OUT = [f"torch.{module}" for module in LEFT_OUT]
LEFT_OUT += ["dask", "distributed", "IPython", "jaxlib.mlir", "matplotlib", "PIL"]


def run(*arguments: str, cwd: Path) -> str:
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def mypy(folder: Path) -> Said:
    """The lines with errors, and the types that were asked for, by line."""
    pytest.importorskip("mypy")
    # As for an installed package, whose own errors are not the user's.
    config = f"[mypy]\nstrict = true\nmypy_path = {ROOT}\n[mypy-arrayloss.*]\nfollow_imports = silent\n"
    config += f"[mypy-{','.join(f'{module}.*' for module in LEFT_OUT)}]\nfollow_imports = skip\n"
    (folder / "mypy.ini").write_text(config)
    said = run("mypy", "--cache-dir", str(ROOT / ".mypy_cache" / "snippet"), "snippet.py", cwd=folder)
    revealed = re.findall(r'snippet.py:(\d+): note: Revealed type is "(.*)"', said)
    return set(map(int, re.findall(r"snippet.py:(\d+): error:", said))), {int(line): found for line, found in revealed}


def pyright(folder: Path) -> Said:
    pytest.importorskip("pyright")
    (folder / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)], "typeCheckingMode": "standard"}))
    said = json.loads(run("pyright", "--outputjson", "--pythonpath", sys.executable, cwd=folder))
    found = [(d["range"]["start"]["line"] + 1, d["severity"], d["message"]) for d in said["generalDiagnostics"]]
    types = {line: re.findall(r' is "(.*)"$', text)[0] for line, severity, text in found if severity == "information"}
    return {line for line, severity, _ in found if severity == "error"}, types


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_a_users_code(checker: Callable[[Path], Said], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("jax")
    (tmp_path / "snippet.py").write_text(SNIPPET)
    errors, types = checker(tmp_path)
    lines = dict(enumerate(SNIPPET.splitlines(), 1))
    assert {lines[n] for n in errors} == {line for line in lines.values() if line.endswith("# error")}
    wanted = {n: line.partition("# is ")[2] for n, line in lines.items() if "# is " in line}
    assert types.keys() == wanted.keys()
    for n, found in types.items():
        assert re.fullmatch(TYPES[wanted[n]], found), f"{found} where {wanted[n]} was due: {lines[n]}"
