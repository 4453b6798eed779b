"""Fuzzer of structure words: everything proved of a random program, against its numbers."""

from tests.choices import Seeded
from tests.derive.programs import random_program
from tests.derive.test_fuzz import confront


def findings(number: int) -> list[str]:
    """What is said and is not so of the program of this number, a line each."""
    program = random_program(Seeded(number), steps=8)
    try:
        confront(program, number)
    except AssertionError as error:
        first_line = (str(error).strip() or "an assertion failed").splitlines()[0]
        return [f"{first_line} | {'; '.join(program.describe().splitlines())}"]
    return []
