"""What a test of a loss needs: the pieces that the conformance suite is built on.

- `array_library`, a pytest fixture: a test that has it runs on every array library that is installed.
- `assert_conforms`: a function has the numbers and gradients of one of `arrayloss`, judged by golden vectors.
- `assert_same`: two functions, of two libraries maybe, have the same numbers and gradients.
- `ulp_distance`, `measure`: the error in units in the last place, and every other way in which a number can be wrong.
- `backends`, `Backend`: bring arrays over to a library and back, and differentiate with its autodiff.
- `vectors`, `Case`, `Due`: calls with their exact results.

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
