"""The four floating-point formats that are judged, as plain numbers.

Every array that is judged is a float64 array whose values are *representable* in the format under test, so that one
container serves bfloat16 too, which NumPy doesn't have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Format:
    """A binary floating-point format: `precision` bits of significand, exponents of normal numbers `emin` to `emax`."""

    name: str
    precision: int
    emin: int
    emax: int

    @property
    def tiny(self) -> float:
        """The smallest positive normal number."""
        return math.ldexp(1.0, self.emin)

    @property
    def subnormal_exponent(self) -> int:
        """The exponent of the smallest positive number, subnormals included."""
        return self.emin - self.precision + 1

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return math.ldexp(2.0 - self.epsilon, self.emax)

    @property
    def epsilon(self) -> float:
        """The distance from 1 to the next larger number."""
        return math.ldexp(1.0, 1 - self.precision)


FORMATS = {
    f.name: f
    for f in (
        Format("float16", 11, -14, 15),
        Format("bfloat16", 8, -126, 127),
        Format("float32", 24, -126, 127),
        Format("float64", 53, -1022, 1023),
    )
}
HALF = ("float16", "bfloat16")


def rounded(values: npt.ArrayLike, dtype: str) -> Floats:
    """Round to the nearest numbers of `dtype` (ties to even, past the largest to infinity), given back as float64."""
    exact = np.array(values, dtype=np.float64)
    unit = spacing(exact, dtype)
    with np.errstate(invalid="ignore"):
        near = np.rint(exact / unit) * unit
    return np.where(np.abs(near) > FORMATS[dtype].largest, np.copysign(np.inf, near), near)


def spacing(values: Floats, dtype: str) -> Floats:
    """One ULP: the distance between neighbours of `dtype` in the binade of each value, subnormal range included."""
    form = FORMATS[dtype]
    # frexp gives m in [1/2, 1), so the exponent of the binade is one less; zero belongs with the subnormals.
    exponent = np.frexp(values)[1] - 1
    exponent = np.where(values == 0, form.emin, np.maximum(exponent, form.emin))
    return np.asarray(np.ldexp(1.0, exponent - (form.precision - 1)))
