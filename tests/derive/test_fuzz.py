"""Random programs: nothing is proved of a block or a piece that its numbers do not bear out.

`python scripts/fuzz.py structure` draws as many more as one likes.
"""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from jacobians.derive.call import derive_call
from jacobians.program.call import bind
from tests.choices import Drawn, Seeded
from tests.derive.programs import programs, random_program
from tests.fuzz_structure import PIECES_EVERY, false_of, program_of, some_program


@st.composite
def structured_programs(draw: st.DrawFn, steps: int = 3):
    """Programs with structured constants, one part of them odd, and with infinities."""
    return some_program(Drawn(draw), steps)


def confront(program, seed: int = 0, pieces: bool = False) -> None:
    """Checks everything that is said of a program against its explicit Jacobian."""
    note(program.describe())
    assert false_of(program, seed, pieces) == []


# several tests of few programs each share the work among processes
@pytest.mark.parametrize("part", range(6))
@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(program=programs())
def test_nothing_is_proved_that_is_not_so(part, program):
    confront(program, part)


@pytest.mark.parametrize("part", range(4))
@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(program=structured_programs())
def test_nothing_is_proved_of_structured_constants_and_infinities_that_is_not_so(part, program):
    confront(program, part, pieces=part % PIECES_EVERY == 0)


@pytest.mark.long
@settings(max_examples=2500, suppress_health_check=list(HealthCheck))
@given(program=programs(steps=9))
def test_nothing_is_proved_that_is_not_so_long(program):
    confront(program)


@pytest.mark.long
@settings(max_examples=1000, suppress_health_check=list(HealthCheck))
@given(program=structured_programs(steps=7))
def test_nothing_is_proved_of_structured_constants_that_is_not_so_long(program):
    confront(program, pieces=True)


@pytest.mark.long
def test_random_programs_cover_the_operations():
    operations: set[str] = set()
    with_formula = 0
    for number in range(40):
        for program in (program_of(number), random_program(Seeded(number), 9)):
            types = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in program.shapes]
            derivation = derive_call(bind(program, types))
            operations.update(node.op for node in derivation.tape.nodes)
            terms = [term for k in range(len(types)) for term in derivation.terms(0, k)]
            with_formula += any(term.coefficient.products is not None for term in terms)
    assert len(operations) > 60
    assert with_formula > 20
