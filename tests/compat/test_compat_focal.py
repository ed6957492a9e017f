"""arrayloss.compat.kornia and .monai against the originals, in float64, by torch."""

import itertools
from typing import Any

import numpy as np
import pytest

from arrayloss.compat import kornia, monai

RNG = np.random.default_rng(0)
X = 2 * RNG.standard_normal((2, 3, 4))
T = RNG.integers(0, 3, (2, 4))
ONE_HOT = np.moveaxis(np.eye(3)[T], -1, 1)
BITS, SOFT = np.round(RNG.random(X.shape)), RNG.random(X.shape)
WEIGHT = np.asarray([0.5, 2.0, 1.5])


def tensor(x: Any) -> Any:
    torch = pytest.importorskip("torch", reason="the originals' torch is not installed")
    return torch.tensor(x) if isinstance(x, np.ndarray) else x


def agree(lib: Any, originals: Any, ours: Any, original: Any, target: np.ndarray, of: str, **options: Any) -> None:
    names = [name for name, given in options.items() if isinstance(given, np.ndarray)]
    moved = {name: tensor(given) for name, given in options.items()}
    expected = originals["torch"](lambda x: original(x, tensor(target), **moved), X)
    arrays = tuple(options[name] for name in names)
    rest = {name: given for name, given in options.items() if name not in names}
    call = lambda x, t, *given: ours(x, t, **rest, **dict(zip(names, given, strict=True)))  # noqa: E731
    lib.agree(call, X, (target, *arrays), expected, of=of, options=options, note=options)


def test_kornia(lib: Any, originals: Any, same_signature: Any) -> None:
    losses = pytest.importorskip("kornia.losses", reason="the original, kornia, is not installed")
    for name in ("focal_loss", "binary_focal_loss_with_logits"):
        same_signature(getattr(kornia, name), getattr(losses, name))
    for reduction, alpha, weight in itertools.product(("mean", "sum"), (0.25, None), (WEIGHT, None)):
        options = {"alpha": alpha, "gamma": 1.5, "reduction": reduction, "weight": weight, "ignore_index": 1}
        agree(lib, originals, kornia.focal_loss, losses.focal_loss, T, "kornia.focal_loss", **options)
    ours, original = kornia.binary_focal_loss_with_logits, losses.binary_focal_loss_with_logits
    for target, reduction, options in itertools.product(
        (BITS, SOFT), ("none", "mean", "sum"), ({"alpha": None}, {"pos_weight": WEIGHT, "weight": WEIGHT})
    ):
        agree(lib, originals, ours, original, target, f"kornia.{ours.__name__}", reduction=reduction, **options)


def test_monai(lib: Any, originals: Any) -> None:
    losses = pytest.importorskip("monai.losses", reason="the original, monai, is not installed")
    torch = pytest.importorskip("torch")

    class InFloat64(torch.Tensor):
        """Whose `float()` is none: MONAI casts to float32."""

        def float(self) -> Any:
            return self

    def original(x: Any, t: Any, **options: Any) -> Any:
        made = losses.FocalLoss(**options)(x.as_subclass(InFloat64), t.as_subclass(InFloat64))
        return made.as_subclass(torch.Tensor)

    for softmax, reduction, alpha, weight in itertools.product(
        (False, True), ("mean", "sum", "none"), (0.25, None, [0.25, 0.5, 0.875]), ([0.5, 2.0, 1.5], None)
    ):
        if not softmax or reduction != "none":
            options = {"reduction": reduction, "alpha": alpha, "weight": weight, "use_softmax": softmax, "gamma": 1.5}
            target = ONE_HOT if softmax else BITS
            agree(lib, originals, monai.FocalLoss, original, target, "monai.FocalLoss", **options)


def test_a_map_of_all_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="softmax_focal_loss"):
        kornia.focal_loss(X, T, 0.25)
    with pytest.raises(ValueError, match="mean"):
        monai.FocalLoss(X, ONE_HOT, use_softmax=True, reduction="none")
