"""The errors of this package: one base class, and the few kinds that callers tell apart.

Every message says what was given, what was expected and what to do.

    >>> try:
    ...     jacobians.explain(jnp.sin, jnp.arange(3))
    ... except jacobians.JacobiansError as error:
    ...     print(error)
    sin has no floating-point input to differentiate with respect to (given x: i32[3]); ...
"""


class JacobiansError(ValueError):
    """Base class of every error that this package raises for a caller's mistake."""


class ArgumentError(JacobiansError):
    """The arguments do not fit the function, or have no derivative to speak of."""


class SpecError(JacobiansError):
    """A command-line argument that describes a value or a function cannot be read."""


class WrongDerivativeError(JacobiansError, AssertionError):
    """A hand-written derivative differs from the derivative of its function."""


class RuleRaisedError(JacobiansError):
    """A rule raised when it was called with numbers; the message says what."""


def first_line(error: Exception) -> str:
    """An exception as `Type: first line of its message`.

    Of one that was raised while compiled code ran it is the error that the code raised, which JAX
    puts into its own message behind a traceback.
    """
    lines = str(error).strip().splitlines()
    starts = [k for k, line in enumerate(lines) if "Traceback (most recent call last)" in line]
    behind = [line for line in lines[starts[-1] + 1 :] if line[:1].strip()] if starts else []
    if behind:
        return behind[0]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
