"""arrayloss.compat.torchvision against torchvision.ops."""

# ruff: noqa: B023, E731  the closures are called at once

import importlib.metadata
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from arrayloss.compat import torchvision as preset

pytest.importorskip("torch", reason="the original's torch is not installed")
import torch


def _original() -> Any:
    """The function of the installed torchvision, from its file: the package itself loads only beside its own torch."""
    try:
        file = importlib.metadata.distribution("torchvision").locate_file("torchvision/ops/focal_loss.py")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the original, torchvision, is not installed", allow_module_level=True)
    code = Path(str(file)).read_text().replace("from ..utils import _log_api_usage_once", "")
    module: dict[str, Any] = {"_log_api_usage_once": lambda _: None}
    exec(compile(code, str(file), "exec"), module)
    return SimpleNamespace(**module)


tv = _original()


def test_signature(same_signature: Any) -> None:
    same_signature(preset.sigmoid_focal_loss, tv.sigmoid_focal_loss)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("target", ["floats", "integers", "soft"])
def test_sigmoid_focal_loss(lib: Any, originals: Any, target: str, reduction: str) -> None:
    rng = np.random.default_rng(0)
    y = rng.random((4, 3))
    y = y if target == "soft" else np.round(y)
    # At 1e4 torchvision's own 1 - p_t is 0 or 1 in all that is right or wrong.
    alphas, gammas = ([0.25, 0, 1, -1], [2, 0, 1, 3.5]) if reduction == "none" else ([0.25], [2])
    for scale, alpha, gamma in itertools.product(lib.few([1.0, 1e4]), lib.few(alphas), lib.few(gammas)):
        x = scale * rng.standard_normal((4, 3))
        expected = originals["torch"](
            lambda x: tv.sigmoid_focal_loss(x, torch.tensor(y), alpha, gamma, reduction),
            x,
        )
        given = y.astype(np.int64) if target == "integers" else y
        call = lambda x, y: preset.sigmoid_focal_loss(x, y, alpha, gamma, reduction)
        # 1 - p_t of the original is a difference from 1.
        lib.agree(
            call,
            x,
            (given,),
            expected,
            of="torchvision.sigmoid_focal_loss",
            options=["alpha", "gamma", "reduction"],
            rtol=1e-9,
        )
