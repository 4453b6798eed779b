"""Random programs: nothing is proved of a block or a piece that its numbers do not bear out.

`python scripts/fuzz.py structure` draws as many more as one likes.
"""

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.choices import Drawn
from tests.derive.programs import programs
from tests.fuzz_structure import BLOCKS, PIECES_EVERY, SEEN, false_of, some_program


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
def test_the_long_profile_covered_the_operations(capsys):
    with capsys.disabled():
        print(f"\n{BLOCKS['blocks']} blocks, {BLOCKS['with a formula evaluated']} with a formula")
        print(f"{len(SEEN)} operations: {', '.join(sorted(SEEN))}")
    assert len(SEEN) > 60
