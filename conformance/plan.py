"""Which cases each library and mode is asked, in a quick run and in a full one.

Compilers take nearly all of the time of a run. What they are spared is arithmetic that they compile for another case
already, or that the eager libraries are asked.
"""

from __future__ import annotations

from dataclasses import dataclass

from arrayloss.testing import Backend, Case

from .cases import DIVERGENCES, ELEMENTWISE, FAMILIES, NOISY, POWERS, SLOW

STRESS = ("margins", "ties", "dominating", "masked", "offset", "outlier", "probabilities")
"""Families whose cases of ten classes are of one shape: what is compiled for one serves all."""

LAYOUT = ("options", "further", "nonfinite")
"""Families that ask about meaning, not digits: axes, masks, reductions, nan. Each case is of a shape of its own."""


@dataclass(frozen=True)
class Part:
    """What is taken of the cases.

    Attributes
    ----------
    float32
        The families taken in float32.
    others
        The families taken in the other dtypes.
    classes
        The numbers of classes, of the families that have cases of several; empty for all.
    gammas
        The focal exponents; empty for all. With just one, other losses that have several formulas take their default
        too.
    examples
        The functions that are taken in other dtypes than float32; empty for all.
    summed
        The functions whose sums over many samples are taken; empty for all. What adds them up knows no loss.
    without
        The functions that are left out.
    """

    float32: tuple[str, ...]
    others: tuple[str, ...]
    classes: tuple[int, ...] = ()
    gammas: tuple[float, ...] = ()
    examples: tuple[str, ...] = ()
    summed: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def takes(self, case: Case) -> bool:
        """Whether a case is part of it."""
        if case.family not in (self.float32 if case.dtype == "float32" else self.others):
            return False
        if case.function in self.without:
            return False
        if self.examples and case.dtype != "float32" and case.function not in self.examples:
            return False
        if self.summed and case.family == "reductions" and case.function not in self.summed:
            return False
        if self.gammas and not _plain(case, self.gammas):
            return False
        counted = case.family in (*STRESS, "soft", "spread", "classes") and case.function not in (
            *ELEMENTWISE,
            "nll_loss",
        )
        return not (self.classes and counted) or case.arrays["logits"].shape[-1] in self.classes


def _plain(case: Case, gammas: tuple[float, ...]) -> bool:
    """Whether a focal loss has an exponent among these; with just one of these, whether others have their defaults."""
    if "gamma" in case.options:
        return case.options["gamma"] in gammas
    other = "gamma_negative" in case.options or "log_zero" in case.options
    other = other or case.options.get("epsilon", 2.0) != 2.0 or case.options.get("q", POWERS[0]) != POWERS[0]
    return len(gammas) > 1 or not other


EVERY = (*FAMILIES, "hunted", "vectors", "real")

EXAMPLES = ("cross_entropy", "binary_cross_entropy_with_logits")
"""What stands for the other losses: in sums over samples that are compiled, as these know no loss; and in a quick run,
in a half type under torch.compile and on eager JAX, where it is float32 and a rounding."""

JENSEN_SHANNON = ("js_divergence", "js_divergence_with_logits")
"""Inductor takes half a minute for each program of these, whose operations the other divergences have too."""

OF_TEN = tuple(f for f in STRESS if f != "outlier")
"""Those of ten classes alone: a hundred are a compilation of their own."""

FULL = {
    "eager": Part(EVERY, EVERY),
    "jax.jit": Part(
        tuple(f for f in EVERY if f != "vectors"),
        tuple(f for f in EVERY if f not in ("vectors", *LAYOUT)),
        summed=EXAMPLES,
    ),
    "torch.compile": Part(
        (*STRESS, "spread", "soft", "weights"), OF_TEN, (10, 100), (2.0, 0.5), without=JENSEN_SHANNON
    ),
    "jax eager": Part((*STRESS, "spread", "soft", "weights", "reductions"), OF_TEN, (10, 100), (2.0,), summed=EXAMPLES),
    "dask eager": Part(
        tuple(f for f in EVERY if f != "vectors"), (*STRESS, "soft", "weights", "reductions", "options")
    ),
}
"""What a full run takes, by the mode; eager JAX compiles every operation for every shape, and Dask has its chunks
computed on NumPy, where their digits are asked."""

QUICK = {
    "eager": Part((*STRESS, "soft", "weights", *LAYOUT), (*STRESS, "soft", "weights"), (10,)),
    "jax.jit": Part(STRESS, STRESS, (10,), (2.0,)),
    "torch.compile": Part(STRESS, STRESS, (10,), (2.0,), EXAMPLES, without=(*DIVERGENCES, *NOISY)),
    "jax eager": Part(("margins", "probabilities"), ("margins",), (10,), (2.0,), EXAMPLES),
    "dask eager": Part(STRESS, STRESS, (10,), (2.0,)),
}
"""The same of a quick run, which has float32 and one half type."""

CANDIDATE = Part((*STRESS, "soft", "weights", *LAYOUT), ("margins",), (10,), (2.0,))
"""What a candidate that JAX can't compile whole is asked by default: each of its operations is compiled by itself."""

QUICK_DTYPES = ("float32", "bfloat16", "float16")
"""float16 where there is no bfloat16."""


def takes(case: Case, backend: Backend, mode: str, quick: bool) -> bool:
    """Whether a run puts a case to a library in a mode."""
    plan = QUICK if quick else FULL
    if quick and case.dtype == "float16" and "bfloat16" in backend.dtypes:
        return False
    return plan.get(f"{backend.name.split(':')[0]} {mode}", plan.get(mode, plan["eager"])).takes(case)


def left_out_of_candidate(mode: str) -> str:
    """What a candidate on JAX isn't asked by default."""
    few = (
        "; it can't be compiled whole, so also other numbers of classes than 10, other focal exponents than 2, and in "
    )
    few += "bfloat16 all but the margins"
    return f"float16{few if mode == 'eager' else ''}. --full takes everything."


def left_out(quick: bool) -> str:
    """What a run leaves out, in words."""
    if quick:
        return (
            "This was the quick run: float32 and one half type, and of each family of inputs the cases that share a "
            f"shape. It leaves out the families {', '.join((*SLOW, 'reductions', 'real', 'hunted', 'vectors'))}, other "
            "numbers of classes than 10, and, of what compilers are asked, all focal exponents but 2, soft targets, "
            "weights, layouts and non-finite inputs; of torch.compile and eager JAX in the half type, all functions "
            f"but {' and '.join(EXAMPLES)}; of torch.compile, {', '.join(QUICK['torch.compile'].without)}. "
            "`--full` has all of it."
        )
    places = {"jax.jit": "jax.jit", "torch.compile": "torch.compile", "jax eager": "eager JAX", "dask eager": "Dask"}
    said = []
    for place, name in places.items():
        part = FULL[place]
        for which, families in (("in float32", part.float32), ("in the other dtypes", part.others)):
            missing = ", ".join(f for f in EVERY if f not in families)
            said.append(f"- {name}, {which}: the families {missing}")
        if part.classes:
            classes, gammas = (" and ".join(f"{v:g}" for v in values) for values in (part.classes, part.gammas))
            said.append(f"- {name}: other numbers of classes than {classes}, and focal exponents than {gammas}")
        if part.without:
            said.append(f"- {name}: {' and '.join(part.without)}")
        if part.summed:
            said.append(f"- {name}: sums over many samples of other functions than {' and '.join(part.summed)}")
    return "\n".join(
        [
            "Each would be a compilation of its own (on Dask, a graph), of arithmetic that is judged elsewhere:",
            "",
            *said,
            "",
            "A --family or --mode asked for by name is taken whole.",
        ]
    )
