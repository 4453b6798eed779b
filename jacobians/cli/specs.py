"""What the command line is given: functions by `module:name`, values by short type notation.

    load_function("jax.nn:softmax")
    parse_spec("f32[4,8]:uniform", seed=0, position=0)

A SPEC is a type in JAX's short notation with an optional distribution, a plain number, a boolean,
or `@file.npy`. Floats are drawn from the distribution, integers are small random ones in [0, 8).
"""

import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians.errors import SpecError

DTYPES = {
    "f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64",
    "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64",
    "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64",
    "bool": "bool", "c64": "complex64", "c128": "complex128",
}  # fmt: skip
DISTRIBUTIONS = {
    "normal": "standard normal",
    "uniform": "uniform on [0, 1)",
    "positive": "uniform on [0.5, 1.5)",
    "zeros": "all 0",
    "ones": "all 1",
    "arange": "0, 1, 2, … in row-major order",
}
# beyond this many elements only the shape is used: nothing is drawn or evaluated
MAX_DRAWN = 10_000_000


def parse_spec(text: str, seed: int = 0, position: int = 0) -> Any:
    """The value that a SPEC describes.

    Args:
        text: `f32[4,8]`, `f32[8]:uniform`, `2`, `-0.5`, `true`, `@file.npy`.
        seed: seed of the random numbers.
        position: the number of the argument, so that equal specs get different numbers.

    Returns:
        A JAX array; a Python int, float or bool for a plain one; a `jax.ShapeDtypeStruct` for an
        array of more than ten million elements.

    Raises:
        SpecError: the text cannot be read; the message quotes it and says what is wrong.
    """
    stripped = text.strip()
    if stripped.startswith("@"):
        return _load_array(text, stripped[1:])
    if stripped.lower() in ("true", "false"):
        return stripped.lower() == "true"
    number = _plain_number(stripped)
    if number is not None:
        return number
    dtype, shape, distribution = _parse_type(text, stripped)
    if prod(shape) > MAX_DRAWN:
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    return _draw(dtype, shape, distribution, text, np.random.default_rng([seed, position]))


def needs_x64(texts: list[str]) -> bool:
    """Whether any SPEC asks for a 64-bit type, which JAX only has when told so."""
    return any(re.match(r"\s*(f64|i64|u64|c128)\b", text) for text in texts)


def _plain_number(text: str) -> int | float | None:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return None


def _parse_type(text: str, stripped: str) -> tuple[str, tuple[int, ...], str]:
    """Dtype, shape and distribution: `f32[4,8]:uniform` is float32, (4, 8) and 'uniform'."""
    head, bracket, rest = stripped.partition("[")
    if head not in DTYPES:
        if not bracket and ":" not in head:
            raise SpecError(
                f"{text!r} is no SPEC; give a type such as f32[4,8], a number, or @file.npy"
            )
        close = difflib.get_close_matches(head, DTYPES, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise SpecError(f"{text!r}: unknown dtype {head!r}{hint}; use one of {', '.join(DTYPES)}")
    if not bracket:
        raise SpecError(f"{text!r}: a shape must follow the dtype: {head}[] or {head}[4,8]")
    inside, closing, after = rest.partition("]")
    if not closing:
        raise SpecError(f"{text!r}: the shape is not closed; write {head}[{inside}]")
    shape = []
    for part in inside.split(",") if inside.strip() else []:
        if not re.fullmatch(r"\s*\d+\s*", part):
            raise SpecError(
                f"{text!r}: the shape {inside!r} has {part.strip()!r} where a size is expected; "
                "write whole numbers separated by commas"
            )
        shape.append(int(part))
    distribution = "normal"
    if after:
        if not after.startswith(":"):
            raise SpecError(
                f"{text!r}: {after!r} after the shape; a distribution is given as "
                f":{'|'.join(DISTRIBUTIONS)}"
            )
        distribution = after[1:]
        if distribution not in DISTRIBUTIONS:
            close = difflib.get_close_matches(distribution, DISTRIBUTIONS, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise SpecError(
                f"{text!r}: unknown distribution {distribution!r}{hint}; "
                f"use one of {', '.join(DISTRIBUTIONS)}"
            )
    return DTYPES[head], tuple(shape), distribution


def _draw(
    dtype: str, shape: tuple[int, ...], distribution: str, text: str, generator: np.random.Generator
) -> jax.Array:
    """An array of a type, drawn from a distribution; `text` is quoted where the two do not fit."""
    kind = np.dtype(jnp.dtype(dtype)).kind
    constant = {"zeros": np.zeros, "ones": np.ones}.get(distribution)
    if constant is not None:
        drawn: Any = constant(shape)
    elif distribution == "arange":
        drawn = np.arange(prod(shape)).reshape(shape)
    elif kind == "b":
        drawn = generator.integers(0, 2, shape) == 1
    elif kind in "iu":
        if distribution != "normal":
            raise SpecError(
                f"{text!r}: integers are drawn from 0 to 7; leave out :{distribution}, or use "
                ":zeros, :ones or :arange"
            )
        drawn = generator.integers(0, 8, shape)
    elif distribution == "uniform":
        drawn = generator.uniform(0.0, 1.0, shape)
    elif distribution == "positive":
        drawn = generator.uniform(0.5, 1.5, shape)
    else:
        drawn = generator.normal(size=shape)
        if kind == "c":
            drawn = drawn + 1j * generator.normal(size=shape)
    return jnp.asarray(np.asarray(drawn), dtype)


def _load_array(text: str, path: str) -> jax.Array:
    """The array of numbers in a `.npy` file."""
    if not path:
        raise SpecError(f"{text!r}: name a file after the @")
    if not os.path.exists(path):
        raise SpecError(f"{text!r}: there is no file {path!r}")
    try:
        loaded = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise SpecError(
            f"{text!r}: {path!r} is no NumPy array file ({error}); save one with numpy.save"
        ) from None
    if not isinstance(loaded, np.ndarray):
        raise SpecError(f"{text!r}: {path!r} holds several arrays; save one array to a .npy file")
    if loaded.dtype.kind not in "fiubc":
        raise SpecError(f"{text!r}: {path!r} holds {loaded.dtype}, not numbers")
    return jnp.asarray(loaded)


def load_function(text: str) -> Callable[..., Any]:
    """The function that `module:name` names; the current directory is searched first.

    Args:
        text: an importable module, a colon, and an attribute of it, dotted if need be.

    Returns:
        The function.

    Raises:
        SpecError: there is no such module or attribute, or it cannot be called.
        Exception: what the module itself raises while it is imported.
    """
    module_name, colon, path = text.partition(":")
    if not colon or not module_name or not path:
        raise SpecError(
            f"{text!r} does not name a function; write MODULE:FUNCTION, for example jax.nn:softmax"
        )
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # a module that exists but misses one of its own imports is another matter
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        raise SpecError(
            f"{text!r}: there is no module {error.name!r}; is it installed, or in this directory?"
        ) from None
    except (TypeError, ValueError):
        raise SpecError(f"{text!r}: {module_name!r} is no module name") from None
    walked = module_name
    for part in path.split("."):
        if not hasattr(found, part):
            close = difflib.get_close_matches(part, dir(found), n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise SpecError(f"{text!r}: {walked} has no {part!r}{hint}")
        found = getattr(found, part)
        walked += f".{part}"
    if not callable(found):
        raise SpecError(f"{text!r}: {walked} is a {type(found).__name__}, not a function")
    function: Callable[..., Any] = found
    return function
