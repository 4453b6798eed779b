"""The errors of this package: one base class, and the few kinds that callers tell apart.

Every message says what was given, what was expected and what to do.

    >>> try:
    ...     jacobians.explain(jnp.sin, jnp.arange(3))
    ... except jacobians.JacobiansError as error:
    ...     print(error)
"""


class JacobiansError(ValueError):
    """Base class of every error that this package raises for a caller's mistake."""


class ArgumentError(JacobiansError):
    """The arguments do not fit the function, or have no derivative to speak of."""


class SpecError(JacobiansError):
    """A command-line argument that describes a value or a function cannot be read."""


class WrongDerivativeError(JacobiansError, AssertionError):
    """A hand-written derivative differs from the derivative of its function."""


def first_line(error: Exception) -> str:
    """An exception as `Type: first line of its message`."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
