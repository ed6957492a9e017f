"""Numbers at random that are the same on every processor.

They are made of the raw bits of a generator by arithmetic that IEEE 754 defines to the last bit: no exponential,
logarithm or power, whose digits depend on the C library and on the width of the processor's vectors, and no sampler
of NumPy's, whose tails are made with these. `tests/test_vectors.py` makes every input of the suite with such functions
forbidden.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from arrayloss.testing import Floats

Size = int | tuple[int, ...]


class Draws:
    """A stream of random numbers; the same seed gives the same numbers everywhere."""

    def __init__(self, *seed: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(seed))

    def _raw(self, size: Size) -> NDArray[np.uint64]:
        return np.asarray(self._bits.random_raw(size), dtype=np.uint64)

    def integers(self, bound: int, size: Size) -> Floats:
        """Whole numbers from 0 to `bound` - 1, as floats; `bound` is below 2**32."""
        return np.asarray(((self._raw(size) >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32), dtype=np.float64)

    def uniform(self, size: Size) -> Floats:
        """Multiples of 2**-53 from 0 up to 1, 1 not included."""
        return np.asarray(np.ldexp((self._raw(size) >> np.uint64(11)).astype(np.float64), -53))

    def normal(self, size: Size) -> Floats:
        """Nearly normal numbers: the sum of 12 uniform ones, less its mean of 6 (Irwin-Hall); none is beyond 6."""
        shape = (size,) if isinstance(size, int) else size
        raw = self._raw((6, *shape))
        total = np.sum((raw >> np.uint64(32)) + (raw & np.uint64(0xFFFFFFFF)), axis=0)  # 36 bits at the most
        return np.asarray(np.ldexp(total.astype(np.float64), -32) - 6.0)

    def between(self, low: float, high: float, size: Size) -> Floats:
        """Positive numbers from `low` to `high`, in every binade equally many (`spaced` at random)."""
        first, last = _pattern(low), _pattern(high)
        steps = (self.uniform(size) * float(last - first)).astype(np.int64)
        return np.asarray((first + steps).view(np.float64))

    def signs(self, size: Size) -> Floats:
        """1 and -1."""
        return self.integers(2, size) * 2 - 1

    def choice(self, options: tuple[float, ...]) -> float:
        """One of some numbers."""
        return options[int(self.integers(len(options), ()))]

    def shares(self, size: tuple[int, ...]) -> Floats:
        """Positive numbers that add up to 1 along the last axis, some much smaller than others."""
        parts = self.integers(1000, size) + 1
        parts = parts * parts * parts  # still whole numbers below 2**53, so that they add up in any order
        return np.asarray(parts / np.sum(parts, axis=-1, keepdims=True))


def _pattern(value: float) -> int:
    """The bits of a positive float64, read as a whole number: these are in the order of the floats."""
    return int(np.float64(value).view(np.int64))


def spaced(low: float, high: float, count: int) -> Floats:
    """`count` positive numbers from `low` to `high`, in every binade equally many at equal distances.

    That is nearly what `np.geomspace` gives.
    """
    first, last = _pattern(low), _pattern(high)
    steps = [first + (last - first) * i // (count - 1) for i in range(count)]
    return np.asarray(np.asarray(steps, dtype=np.int64).view(np.float64))
