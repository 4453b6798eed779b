"""Python code that repeats a check, for the end of a failure message.

    print(check_code(my_relu, (jnp.array([-1.0, 2.0]),)))
    # import jax.numpy as jnp
    # import jacobians
    # from mymodule import my_relu

    x = jnp.array([-1.0, 2.0], "float32")
    jacobians.check_vjp(my_relu, x).raise_if_wrong()

What cannot be written down, such as a function made inside another one, is left out with a remark.
"""

import base64
import builtins
import keyword
import sys
import textwrap
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians.gates import Gate, catalogue
from jacobians.program.call import argument_names, function_name, short_type

WIDTH = 100
# more elements than these are written compressed, and more than those not at all
MAX_LISTED = 256
MAX_ENCODED = 1 << 14


def check_code(
    f: Callable[..., Any],
    args: Sequence[Any],
    vjp: Callable[..., Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> str:
    """Code that calls `check_vjp` with these arguments.

    Args:
        f: the function that was checked.
        args: its arguments: arrays, pytrees of them, Python values.
        vjp: the rule given beside the function, or None.
        options: other arguments of `check_vjp`; those that are None are left out.

    Returns:
        A program of a few lines. Where something cannot be written down, a comment says what to
        put there.
    """
    imports = ["import jax.numpy as jnp", "import jacobians"]
    before: list[str] = []
    if jnp.result_type(float) == jnp.float64:
        imports.insert(0, "import jax")
        before.append('jax.config.update("jax_enable_x64", True)')
    function = _reference(f, "f", imports, before)
    rule = None if vjp is None else _reference(vjp, "vjp", imports, before)
    taken = {"jax", "jnp", "np", "jacobians", function.split(".")[0], (rule or "").split(".")[0]}
    names = []
    for number, name in enumerate(argument_names(f, args)):
        fits = name.isidentifier() and not keyword.iskeyword(name) and not hasattr(builtins, name)
        if not fits or name in taken:
            name = f"x{number}"
        taken.add(name)
        names.append(name)
    lines = []
    for name, value in zip(names, args, strict=True):
        source = value_source(value)
        if source is None:
            before.append(f"{name} = ...  # put here: {_description(value)}")
        elif "'" in source:
            # a line must not be broken inside of a string
            lines.append(f"{name} = {source}")
        else:
            lines += textwrap.wrap(
                f"{name} = {source}",
                WIDTH,
                subsequent_indent="    ",
                break_long_words=False,
                break_on_hyphens=False,
            )
    if any("np.frombuffer" in line for line in lines):
        imports[-1:-1] = ["import base64", "import zlib", "import numpy as np"]
    given = ", ".join([function, *names])
    if rule is not None:
        given += f", vjp={rule}"
    for key, option in (options or {}).items():
        if option is not None:
            given += f", {key}={option!r}"
    call = f"jacobians.check_vjp({given}).raise_if_wrong()"
    return "\n".join([*imports, "", *before, *lines, call])


def value_source(value: Any) -> str | None:
    """A value as a Python expression of `jnp` and `np`, or None where there is none."""
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return _array_source(value)
    if isinstance(value, float):
        return _number_source(value, np.dtype(np.float64))
    if value is None or isinstance(value, (bool, int, str)):
        return repr(value)
    if type(value) is dict:
        parts = {repr(key): value_source(x) for key, x in value.items()}
        if None in parts.values():
            return None
        return "{" + ", ".join(f"{key}: {part}" for key, part in parts.items()) + "}"
    if type(value) in (list, tuple):
        items = [value_source(x) for x in value]
        if None in items:
            return None
        inside = ", ".join(str(item) for item in items)
        if isinstance(value, list):
            return f"[{inside}]"
        return f"({inside},)" if len(items) == 1 else f"({inside})"
    return None


def _array_source(value: Any) -> str | None:
    """An array as an expression: its numbers, or its bytes where they are many; None of a key."""
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.extended):
        return None
    # as JAX takes it: without x64, float64 becomes float32
    array = np.asarray(jnp.asarray(value))
    kind = f'"{array.dtype.name}"'
    if array.size == 0:
        return f"jnp.zeros({array.shape}, {kind})"
    first = array.reshape(-1)[0]
    if array.size > 2 and array.tobytes() == np.full_like(array, first).tobytes():
        return f"jnp.full({array.shape}, {_number_source(first, array.dtype)}, {kind})"
    if array.size <= MAX_LISTED:
        return f"jnp.array({_nested(array)}, {kind})"
    if array.size > MAX_ENCODED:
        return None
    text = base64.b64encode(zlib.compress(array.tobytes(), 9)).decode()
    return (
        f'jnp.asarray(np.frombuffer(zlib.decompress(base64.b64decode("{text}")), '
        f"jnp.dtype({kind})).reshape({array.shape}))"
    )


def _nested(array: Any) -> str:
    if array.ndim == 0:
        return _number_source(array[()], array.dtype)
    return "[" + ", ".join(_nested(np.asarray(part)) for part in array) + "]"


def _number_source(value: Any, dtype: np.dtype[Any]) -> str:
    """The shortest text that gives the number back in its dtype."""
    if dtype.kind in "biu":
        return repr(value.item() if hasattr(value, "item") else value)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return repr(complex(value))
    number = float(value)
    if np.isnan(number):
        return "jnp.nan"
    if np.isinf(number):
        return "jnp.inf" if number > 0 else "-jnp.inf"
    text = repr(number)
    for digits in range(1, 17):
        shorter = f"{number:.{digits}g}"
        if np.asarray(float(shorter), dtype) == np.asarray(number, dtype):
            text = shorter
            break
    return text if any(sign in text for sign in ".e") else f"{text}.0"


def _reference(f: Callable[..., Any], fallback: str, imports: list[str], before: list[str]) -> str:
    """How the code names a function; what that needs is added to the imports."""
    if isinstance(f, Gate) and catalogue.get(f.name) is f:
        return f"jacobians.gates.get({f.name!r})"
    module = getattr(f, "__module__", None)
    path = getattr(f, "__qualname__", None) or getattr(f, "__name__", None)
    if isinstance(module, str) and isinstance(path, str) and module != "__main__":
        found: Any = sys.modules.get(module)
        for part in path.split("."):
            found = getattr(found, part, None)
        if found is f:
            imports.append(f"from {module} import {path.split('.')[0]}")
            return path
    name = function_name(f)
    name = name if name.isidentifier() and not keyword.iskeyword(name) else fallback
    before.append(f"{name} = ...  # put your function here")
    return name


def _description(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array {short_type(value.shape, value.dtype)}, too large to be written here"
    return f"a {type(value).__name__}"
