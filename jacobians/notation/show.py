"""How a result becomes something to read: one function for every form, which reports register with.

A result knows nothing of screens. `str(result)` asks `text`, `result.to_dict()` asks `data`; what
they answer for its type stands in `jacobians.report`. Another form is another function here, and
one module there.

    text(explain(jnp.tanh, x))
"""

from functools import singledispatch
from typing import Any


@singledispatch
def text(result: Any) -> str:
    """A result as lines of text."""
    raise _unknown("text", result)


@singledispatch
def data(result: Any) -> dict[str, Any]:
    """A result as values that JSON has: dictionaries, lists, strings, numbers, None."""
    raise _unknown("data", result)


@singledispatch
def svg(result: Any) -> str:
    """A result as an SVG image."""
    raise _unknown("an SVG image", result)


@singledispatch
def dot(result: Any) -> str:
    """A result in Graphviz's language."""
    raise _unknown("a Graphviz graph", result)


def _unknown(form: str, result: Any) -> TypeError:
    return TypeError(f"no report shows a {type(result).__name__} as {form}")
