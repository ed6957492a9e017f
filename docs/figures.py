"""The figures of the README and of docs/why.md, from the functions themselves: `python docs/figures.py`.

float32 against mpmath with 60 digits. Greys and colours are such that they show on white and on black.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import matplotlib.pyplot as plt
import mpmath
import numpy as np
import optax
import torch
import torch.nn.functional as F
from scipy import special

import arrayloss as al

FOLDER = Path(__file__).parent / "figures"
INK, OURS, BAD = "#767676", "#1f8a5b", "#d1495b"
STYLE = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.alpha": 0.3,
    "grid.color": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "arrayloss",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
SMALLEST = float(np.finfo(np.float32).tiny)
mpmath.mp.dps = 60

Tensor = torch.Tensor


def cross_entropy(z: float) -> Any:
    """-log sigmoid(z): the loss of a label whose logit is z above the other's."""
    return mpmath.log1p(mpmath.exp(-mpmath.mpf(z)))


def focal(z: float) -> Any:
    return mpmath.exp(-2 * cross_entropy(-z)) * cross_entropy(z)


# ---------------------------------------------------------------- the tutorial's formulas, and what they became


def probability(z: Tensor) -> Tensor:
    """Its `sigmoid`."""
    return (1 + (-z).exp()).reciprocal()


def forward(z: Tensor) -> Tensor:
    """The cross-entropy inside its `forward`, for the target 1."""
    largest = (-z).clamp(min=0)
    return z - z + largest + ((-largest).exp() + (-z - largest).exp()).log()


def cus(z: Tensor) -> Tensor:
    t = torch.max(-z, torch.zeros(z.shape))
    return t + torch.log(t.exp() + (-z - t).exp())


def rows(z: Tensor) -> Tensor:
    """Two classes; the label is the first."""
    return torch.stack([z, torch.zeros_like(z)], dim=1)


def labels(z: Tensor) -> Tensor:
    return torch.zeros(z.shape, dtype=torch.int64)


Formula = Callable[[Tensor], Tensor]
SOFTMAX: dict[str, Formula] = {
    "cus_softmax, then log": lambda z: -(rows(z).exp() / rows(z).exp().sum(-1).unsqueeze(1))[:, 0].log(),
    "torch.softmax, then log": lambda z: -torch.softmax(rows(z), dim=-1)[:, 0].log(),
    "cus_log_softmax, then nll": lambda z: -(rows(z) - rows(z).exp().sum(-1).log().unsqueeze(1))[:, 0],
    "F.log_softmax, then nll": lambda z: F.nll_loss(F.log_softmax(rows(z), dim=-1), labels(z), reduction="none"),
    "F.cross_entropy": lambda z: F.cross_entropy(rows(z), labels(z), reduction="none"),
    "arrayloss.cross_entropy": lambda z: al.cross_entropy(rows(z), labels(z), reduction="none"),
}
SIGMOID: dict[str, Formula] = {
    "log(sigmoid(x))": lambda z: -torch.log(probability(z)),
    "log(1 - sigmoid(-x))": lambda z: -torch.log(1 - torch.sigmoid(-z)),
    "x - log(1 + exp(x))": lambda z: -(z - torch.log(1 + z.exp())),
    "cus": cus,
    "forward's max trick": forward,
    "F.binary_cross_entropy": lambda z: F.binary_cross_entropy(torch.sigmoid(z), torch.ones(z.shape), reduction="none"),
    "F.logsigmoid": lambda z: -F.logsigmoid(z),
    "arrayloss.log_sigmoid": lambda z: -al.log_sigmoid(z),
}
FOCAL: dict[str, Formula] = {
    "-(1 - p)^2 log(p)": lambda z: -((1 - torch.sigmoid(z)) ** 2) * torch.sigmoid(z).log(),
    "focal": lambda z: -F.logsigmoid(z) * torch.sigmoid(-z) ** 2,
    "forward, focal_loss": lambda z: (F.logsigmoid(-z) * 2).exp() * forward(z),
    "arrayloss.sigmoid_focal_loss": lambda z: al.sigmoid_focal_loss(z, torch.ones(z.shape), reduction="none"),
}
PEERS: dict[str, Callable[[Any, Any], Any]] = {
    "torch": lambda x, t: F.cross_entropy(torch.asarray(x), torch.asarray(t), reduction="none").numpy(),
    "scipy": lambda x, t: -special.log_softmax(x, axis=-1)[:, 0],
    "optax": lambda x, t: np.asarray(optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(x), jnp.asarray(t))),
}


def error(formula: Formula, exact: Callable[[float], Any], z: Any) -> Any:
    """The relative error at each z: inf for inf and nan, nan where a float32 is too large for what is exact."""
    found = formula(torch.asarray(z)).double().numpy()
    true = [exact(float(v)) for v in z]
    off = [float(abs(f - e) / e) if np.isfinite(f) else np.inf for f, e in zip(found, true, strict=True)]
    small = np.asarray([float(e) for e in true]) < SMALLEST
    return np.where(small & np.isfinite(off), np.nan, off)


def table(formulas: dict[str, Formula], exact: Callable[[float], Any]) -> str:
    """Where each formula breaks, on the logits -120 to 120 in steps of a quarter."""
    z = np.linspace(-120, 120, 961, dtype=np.float32)
    lines = [f"{'':30}{'right answers':>27}{'wrong answers':>18}"]
    lines.append(" " * 30 + "".join(f"{head:>9}" for head in ("1 % off", "lost", "inf", "1 % off", "inf")))
    for name, formula in formulas.items():
        off = error(formula, exact, z)
        places = []
        for side in (z > 0, z < 0):
            for broken in (off >= 0.01, off >= 0.99, np.isinf(off)):
                at = np.abs(z[side & broken & ~np.isnan(off)])
                places.append(f"{at.min():g}" if at.size else "-")
        del places[4]  # a wrong answer's loss is large, and never comes out as 0
        lines.append(f"{name:30}{''.join(f'{place:>9}' for place in places)}")
    return "\n".join(lines)


# ---------------------------------------------------------------- drawing


def save(figure: Any, name: str) -> None:
    path = FOLDER / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    # Hundredths of a point are enough.
    path.write_text(re.sub(r"(\.\d\d)\d+", r"\1", path.read_text()))


def panels(name: str, formulas: dict[str, Formula], exact: Callable[[float], Any], reach: int = 120) -> None:
    """One panel for each formula: relative error against the logit."""
    z = np.linspace(-reach, reach, 241, dtype=np.float32)
    height = len(formulas) // 2
    figure, axes = plt.subplots(height, 2, figsize=(5, 1.5 * height), sharex=True, sharey=True)
    for axis, (title, formula) in zip(axes.flat, formulas.items(), strict=True):
        off = error(formula, exact, z)
        ours = title.startswith("arrayloss")
        axis.set_title(title, fontfamily="monospace", fontsize=8, color=OURS if ours else INK)
        axis.plot(z, np.clip(off, 1e-8, 1), color=OURS if ours else INK, linewidth=1.2)
        for broken in (z[np.isinf(off) & (z < 0)], z[np.isinf(off) & (z > 0)]):
            if broken.size:
                axis.axvspan(broken.min(), broken.max(), color=BAD, alpha=0.35, linewidth=0)
        axis.set(yscale="log", ylim=(1e-8, 2), yticks=[1e-8, 1e-6, 1e-4, 1e-2, 1], xlim=(-reach, reach))
        axis.minorticks_off()
        axis.grid(True)
    figure.supxlabel("logit: wrong by that much on the left, right on the right", color=INK, fontsize=10)
    figure.supylabel("relative error (1: no digit left; red: inf or nan)", color=INK, fontsize=10)
    figure.tight_layout()
    save(figure, name)


def margins() -> None:
    """The README's figure: a right answer's loss against its margin."""
    margin = np.arange(0, 87.1, 0.25, dtype=np.float32)
    x, t = np.stack([margin, np.zeros_like(margin)], axis=1), np.zeros(margin.shape, dtype=np.int64)
    figure, axis = plt.subplots(figsize=(5.4, 3.4))
    axis.plot(
        margin, [float(cross_entropy(float(m))) for m in margin], color=INK, linewidth=7, alpha=0.35, label="exact"
    )
    axis.plot(margin, al.cross_entropy(x, t, reduction="none"), color=OURS, linewidth=1.8, label="arrayloss")
    for (name, loss), color, height in zip(PEERS.items(), ("#e07b39", "#3b82c4", "#a05fc0"), (9, 6, 3), strict=True):
        found = loss(x, t)
        zero = margin[found == 0]
        axis.plot(margin[found > 0], found[found > 0], color=color, linewidth=1.4, label=f"{name}: 0 from {zero[0]:g}")
        axis.plot(zero, np.full(zero.shape, SMALLEST * 10 ** (height / 2)), ":", color=color, linewidth=2)
    axis.set(
        yscale="log", xlim=(0, 87), ylim=(SMALLEST, 3), xlabel="margin of the right class", ylabel="loss (float32)"
    )
    axis.set_yticks([1e-35, 1e-30, 1e-25, 1e-20, 1e-15, 1e-10, 1e-5, 1])
    axis.minorticks_off()
    axis.grid(True)
    axis.text(30, SMALLEST * 10**5.5, "exactly 0: every digit lost", fontsize=9)
    axis.legend(loc="upper right")
    save(figure, "margin")


if __name__ == "__main__":
    with plt.rc_context(STYLE):
        margins()
        panels("softmax", SOFTMAX, cross_entropy)
        panels("sigmoid", SIGMOID, cross_entropy)
        panels("focal", FOCAL, focal)
