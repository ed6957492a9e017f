"""`python -m conformance.candidates`: torch's, optax's and keras's own losses, each judged as `--candidate` judges it.

Keras takes the target first and probabilities unless told otherwise: its losses are given here as anyone would write
them down for `--candidate conformance.candidates:keras_cross_entropy`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from datetime import UTC, datetime
from typing import Any

from . import share
from .backends import versions
from .report import short
from .runner import Result, Selection

HERE = f"{__package__}.candidates"  # whatever it is run as
LOSSES: tuple[tuple[str, str], ...] = (
    ("torch.nn.functional:logsigmoid", "log_sigmoid"),
    ("torch.nn.functional:nll_loss", "nll_loss"),
    ("torch.nn.functional:cross_entropy", "cross_entropy"),
    ("torch.nn.functional:binary_cross_entropy", "binary_cross_entropy"),
    ("torch.nn.functional:binary_cross_entropy_with_logits", "binary_cross_entropy_with_logits"),
    ("optax.losses:softmax_cross_entropy_with_integer_labels", "cross_entropy"),
    ("optax.losses:softmax_cross_entropy", "cross_entropy"),
    ("optax.losses:sigmoid_binary_cross_entropy", "binary_cross_entropy_with_logits"),
    ("optax.losses:sigmoid_focal_loss", "sigmoid_focal_loss"),
    ("optax.losses:poly_loss_cross_entropy", "poly_loss"),
    (f"{HERE}:keras_cross_entropy", "cross_entropy"),
    (f"{HERE}:keras_binary_cross_entropy", "binary_cross_entropy_with_logits"),
    (f"{HERE}:keras_sigmoid_focal_loss", "sigmoid_focal_loss"),
    (f"{HERE}:keras_softmax_focal_loss", "softmax_focal_loss"),
)
"""Each as `--candidate`, and `--as`."""


def keras() -> Any:
    """Keras on JAX, unless the environment says otherwise."""
    os.environ.setdefault("KERAS_BACKEND", "jax")  # it would look for TensorFlow
    return importlib.import_module("keras")


def keras_cross_entropy(logits: Any, target: Any) -> Any:
    """`keras.losses.sparse_categorical_crossentropy` of logits."""
    return keras().losses.sparse_categorical_crossentropy(target, logits, from_logits=True)


def keras_binary_cross_entropy(logits: Any, target: Any) -> Any:
    """`keras.losses.binary_crossentropy` of logits; it takes a mean over the last axis, which is given it."""
    return keras().losses.binary_crossentropy(target[..., None], logits[..., None], from_logits=True)


def keras_sigmoid_focal_loss(logits: Any, target: Any, *, gamma: float = 2.0) -> Any:
    """`keras.losses.binary_focal_crossentropy` of logits."""
    return keras().losses.binary_focal_crossentropy(target[..., None], logits[..., None], gamma=gamma, from_logits=True)


def keras_softmax_focal_loss(logits: Any, target: Any, *, gamma: float = 2.0) -> Any:
    """`keras.losses.categorical_focal_crossentropy` of logits and labels, without its alpha of 0.25."""
    shares = keras().ops.one_hot(target, logits.shape[-1], dtype=logits.dtype)
    return keras().losses.categorical_focal_crossentropy(shares, logits, alpha=1.0, gamma=gamma, from_logits=True)


def name(path: str) -> str:
    """Whose function it is: of those written here, what their docstrings name first."""
    module, _, function = path.partition(":")
    return str(globals()[function].__doc__).split("`")[1] if module == HERE else f"{module}.{function}"


def judged(path: str, as_: str, selection: Selection) -> list[Result]:
    """What comes of judging one of them."""
    work, chosen = share.candidate(path, as_, selection, None)
    return [result for done, _ in share.run(share.tasks(work, chosen), workers=1) for result in done]


def section(path: str, as_: str, results: list[Result]) -> str:
    """What to say of one: how far it gets, and every case that it fails."""
    ran = [r for r in results if r.mode and r.status != "not run"]
    wrong: dict[str, list[Result]] = {}
    for r in ran:
        if r.failed:
            wrong.setdefault(r.case, []).append(r)
    cases, missed = {r.case for r in ran}, {r.case for r in results if r.mode and r.status == "not run"}
    backends = ", ".join(sorted({r.backend for r in ran}))
    lines = [
        f"## {name(path)} as {as_}",
        "",
        f"On {backends}: {len(wrong)} of {len(cases)} cases fail; {len(missed)} not covered.",
    ]
    if wrong:
        lines += ["", "| case | what is wrong | the worst of it, in ULP after k |", "| --- | --- | --- |"]
    for case, found in wrong.items():
        said = "; ".join(f"{r.quantity or 'call'}: {r.reason}".replace("|", "\\|")[:200] for r in found)
        worst = ", ".join(short(r.measured.after_k) if r.measured else "-" for r in found)
        lines.append(f"| {case} | {said} | {worst} |")
    return "\n".join(lines)


def table(selection: Selection) -> str:
    """A section for each of those that are installed."""
    said = []
    for path, as_ in LOSSES:
        library = name(path).split(".")[0]
        if importlib.util.find_spec(library) is None:
            said.append(f"## {name(path)} as {as_}\n\nNot run: {library} is not installed.")
            continue
        print(path, file=sys.stderr)
        said.append(section(path, as_, judged(path, as_, selection)))
    return "\n\n".join(said)


def main() -> None:
    """Print all of it, dated."""
    used = ("numpy", "torch", "jax", "optax", "keras")
    found = ", ".join(f"{name} {number}" for name, number in versions().items() if name in used)
    print(f"# The libraries' own losses as candidates\n\n{datetime.now(UTC).isoformat(timespec='seconds')}; {found}\n")
    print(table(Selection(dtypes=("float32",), quick=True)))


if __name__ == "__main__":
    main()
