"""What is wrong with a hand-written derivative, most likely.

Hypotheses are tested numerically on the wrong cotangent of each input, and reported only when they
leave nothing of the discrepancy unexplained; how much they explain is their `fit`. Where the wrong
entries are few numbers, a hypothesis has to hold at other points too, or ranks last. The search has
a budget of CPU time, `diagnose=` of `check_vjp` and `audit`: what is plain is looked for first, and
where the time is over the report says "search stopped" and what was found so far.

| kind | the mistake |
|---|---|
| sign, factor, zero | the whole cotangent, or the term of one path, times −1, times a number, 0 |
| missing-term, double-term | the path through an operation left out (detached), or twice |
| missing-sum, mean-for-sum, wrong-axis | the sum over a broadcast axis |
| transposed, flipped, shifted, swapped | axes, order, indices, cotangents of two arguments |
| mask-inverted, mask-missing, mask-source, boundary | masks: of wrong sense, source, or ≥ for > |
| stale-residual, local-derivative | another value where an operation is linearised |
| passed-through | the upstream cotangent itself, without a local derivative |
| conjugate | the conjugate of a complex cotangent |
| region | wrong only in a part that can be described: negative inputs, the last block |
| low-precision | right, but rounded to fewer bits |
| nonlinear, ignores-cotangent, nondeterministic | no linear map of the cotangent |
| primal, non-finite, shape, dtype, count, structure, raised, symbolic-zeros | seen directly |
| unknown | none of these |

    check_vjp(layer_norm, x).diagnoses[0].message
    # 'the path through `mean` at norm.py:4 (`mu = x.mean(-1, keepdims=True)`) is missing …'
"""

from jacobians.check.diagnose.budget import Budget, budget_of
from jacobians.check.diagnose.case import Diagnosis
from jacobians.check.diagnose.form import diagnose_form
from jacobians.check.diagnose.run import diagnose

__all__ = ["Budget", "Diagnosis", "budget_of", "diagnose", "diagnose_form"]
