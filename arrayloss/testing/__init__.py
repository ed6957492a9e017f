"""The functions and classes to test a loss with. The conformance suite is built on them.

- `array_library`, a pytest fixture: a test that uses it runs on every array library that is installed.
- `assert_conforms`: a function has the same values and gradients as one of `arrayloss`, tested with golden vectors.
- `assert_same`: two functions have the same values and gradients. They may belong to two libraries.
- `ulp_distance`, `measure`: the error in units in the last place, and other faults, such as a NaN.
- `backends`, `Backend`: convert arrays to a library and back, and differentiate with its autodiff.
- `vectors`, `Case`, `Due`: calls of functions, with the exact results.

Nothing here calls an implementation of this package; no array library is imported before it is needed.
"""

from arrayloss.testing._assertions import assert_conforms, assert_same, ulp_distance
from arrayloss.testing._backends import (
    Backend,
    Implementation,
    Loss,
    Numbers,
    as_numpy,
    backend,
    backends,
    own_traceback,
)
from arrayloss.testing._candidate import candidate, judged_as, parameters
from arrayloss.testing._cases import PER_SAMPLE, Case, Reduce, Witness, case, fault, witness
from arrayloss.testing._formats import FORMATS, HALF, Floats, Format, rounded, spacing
from arrayloss.testing._measure import Due, Exact, Gap, Measurement, errors, measure, spread
from arrayloss.testing._vectors import judged_functions, vectors

__all__ = [
    "FORMATS",
    "HALF",
    "PER_SAMPLE",
    "Backend",
    "Case",
    "Due",
    "Exact",
    "Floats",
    "Format",
    "Gap",
    "Implementation",
    "Loss",
    "Measurement",
    "Numbers",
    "Reduce",
    "Witness",
    "as_numpy",
    "assert_conforms",
    "assert_same",
    "backend",
    "backends",
    "candidate",
    "case",
    "errors",
    "fault",
    "judged_as",
    "judged_functions",
    "measure",
    "own_traceback",
    "parameters",
    "rounded",
    "spacing",
    "spread",
    "ulp_distance",
    "vectors",
    "witness",
]
