"""The Gate: a forward function, its hand-written VJP and what is known of the pair.

A gate's backward pass multiplies the upstream gradient by its local gradient. That is all a `Gate`
holds: `forward(*inputs)` and `vjp(cotangent, *inputs)`, two plain functions written next to each
other, tied together with a signature, the role the gate plays in the backward flow and one line
that says why. Calling the gate computes `forward`; differentiating the call uses `vjp`.

    >>> def double(x):
    ...     return 2 * x
    >>> def double_vjp(cotangent, x):
    ...     return (2 * cotangent,)
    >>> DOUBLE = Gate("double", double, double_vjp, "()->()", role="scales", why="d(2x)/dx = 2")
    >>> jax.grad(DOUBLE)(3.0)
    Array(2., dtype=float32, weak_type=True)
"""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jacobians.errors import ArgumentError
from jacobians.gates.signature import Signature, Sizes, bind_shapes, parse_signature
from jacobians.program.call import one_of, short_type

Group = Literal["scalar", "vector", "loss"]
Domain = Literal["real", "positive", "nonzero"]


@dataclass(frozen=True, eq=False)
class Gate:
    """A differentiable operation with a hand-written vector-Jacobian product.

    Attributes:
        name: how the catalogue calls it.
        forward: the plain function of the inputs; no custom rule inside.
        vjp: `vjp(cotangent, *inputs)`: a tuple with one cotangent per input, of that input's shape
            and dtype. The cotangent has the output's structure, shape and dtype. Inputs that are
            indices get zeros of dtype `float0`, as `jax.vjp` gives them.
        signature: NumPy generalised-ufunc signature; leading loop axes broadcast.
        role: what the gate does to the upstream gradient, in one word: `distributes`, `switches`.
        why: one line that says why it plays this role.
        group: `scalar`, `vector` or `loss`.
        convention: which value is taken where the derivative does not exist; empty where it
            exists everywhere.
        indices: the inputs that are integers, as (position, name of the axis they index).
        domain: for each input, the numbers the gate is meant for; empty means all real ones.
    """

    name: str
    forward: Callable[..., Any]
    vjp: Callable[..., tuple[Any, ...]]
    signature: str
    role: str
    why: str
    group: Group = "vector"
    convention: str = ""
    indices: tuple[tuple[int, str], ...] = ()
    domain: tuple[Domain, ...] = ()
    _rule: Callable[..., Any] = field(init=False, repr=False)
    _parsed: Signature = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parsed = parse_signature(self.signature)
        parameters = inspect.signature(self.forward)
        if len(parameters.parameters) != len(parsed.inputs):
            raise ArgumentError(
                f"gate {self.name!r}: its forward function takes {len(parameters.parameters)} "
                f"inputs, its signature {self.signature} has {len(parsed.inputs)}"
            )
        one_of(f"gate {self.name!r}: group", self.group, get_args(Group), "groups")
        for domain in self.domain:
            one_of(f"gate {self.name!r}: domain", domain, get_args(Domain), "domains")
        object.__setattr__(self, "_parsed", parsed)
        object.__setattr__(self, "_rule", _custom_vjp(self.forward, self.vjp))
        # Tools that name arguments ask inspect.signature(gate), which looks here first.
        object.__setattr__(self, "__signature__", parameters)

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of the inputs, from the forward function's parameters."""
        return tuple(inspect.signature(self.forward).parameters)

    def __call__(self, *inputs: Any) -> Any:
        """Applies the gate; its derivative is the hand-written VJP.

        Args:
            *inputs: floating-point arrays or scalars that fit the signature, their leading axes
                broadcasting; integer arrays where the gate takes indices.

        Returns:
            What `forward` returns.

        Raises:
            ArgumentError: the number, the dtypes or the shapes of the inputs do not fit.
        """
        check_inputs(self, *inputs)
        return self._rule(*inputs)

    def __repr__(self) -> str:
        return f"Gate({self.name!r}, {self.signature!r}, role={self.role!r})"


def check_inputs(gate: Gate, *inputs: Any) -> Sizes:
    """Checks that inputs fit a gate: their number, dtypes and shapes.

    Args:
        gate: the gate.
        *inputs: arrays, scalars or tracers.

    Returns:
        The lengths of the signature's axes.

    Raises:
        ArgumentError: they do not fit; the message names the signature and the inputs.
    """
    names = gate.input_names
    if len(inputs) != len(names):
        plural = "" if len(names) == 1 else "s"
        raise ArgumentError(
            f"gate {gate.name!r} takes {len(names)} input{plural} ({', '.join(names)}), "
            f"got {len(inputs)}"
        )
    positions = dict(gate.indices)
    for position, (name, value) in enumerate(zip(names, inputs, strict=True)):
        _check_dtype(gate, name, value, integer=position in positions)
    try:
        return bind_shapes(gate._parsed, [jnp.shape(value) for value in inputs], names)
    except ArgumentError as error:
        raise ArgumentError(f"gate {gate.name!r}: {error}") from None


def sum_to(value: Any, like: Any) -> jax.Array:
    """The cotangent of an input that was broadcast: summed to that input's shape, in its dtype.

    An input used at several places receives the sum of their cotangents (the branch rule), and
    broadcasting is such a use.

    Args:
        value: the cotangent, an array of the shape `like` was broadcast to; any floating dtype.
        like: the input, array or scalar.

    Returns:
        Array of the shape and dtype of `like`.

    Raises:
        ArgumentError: `like` cannot be broadcast to the cotangent's shape.
    """
    cotangent: jax.Array = jnp.asarray(value)
    shape, wide = jnp.shape(like), cotangent.shape
    extra = len(wide) - len(shape)
    tail = wide[max(extra, 0) :]
    if extra < 0 or any(n not in (1, w) for n, w in zip(shape, tail, strict=True)):
        raise ArgumentError(
            f"a cotangent of shape {wide} cannot belong to an input of shape {shape}; "
            "the cotangent of a gate has the shape of the gate's output"
        )
    broadcast = [extra + k for k, (n, w) in enumerate(zip(shape, tail, strict=True)) if n != w]
    axes = (*range(extra), *broadcast)
    if axes:
        cotangent = cotangent.sum(axes).reshape(shape)
    return jnp.asarray(cotangent, jnp.result_type(like))


def no_cotangent(indices: Any) -> np.ndarray[Any, Any]:
    """The cotangent of an integer input: zeros of dtype `float0`, which hold nothing.

    Args:
        indices: integer array of any shape.

    Returns:
        Array of that shape and dtype `float0`, as `jax.vjp` gives it.
    """
    return np.zeros(jnp.shape(indices), jax.dtypes.float0)


def checked_constant(name: str, value: Any) -> float:
    """A gate's static constant as a Python float, so that it never widens the inputs' dtype.

    Args:
        name: what it is called in the message.
        value: a finite real number.

    Returns:
        The number as a float.

    Raises:
        ArgumentError: it is no finite real number.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ArgumentError(f"{name} is a constant of the gate: a finite number, got {value!r}")
    return number


def build_catalogue(gates: Iterable[Gate]) -> Mapping[str, Gate]:
    """A read-only mapping from names to gates, in the order given.

    Args:
        gates: the gates.

    Returns:
        The mapping.

    Raises:
        ArgumentError: two gates have the same name.
    """
    catalogue: dict[str, Gate] = {}
    for gate in gates:
        if gate.name in catalogue:
            raise ArgumentError(f"two gates are called {gate.name!r}; names must differ")
        catalogue[gate.name] = gate
    return MappingProxyType(catalogue)


def find(catalogue: Mapping[str, Gate], name: str) -> Gate:
    """The gate of this name.

    Args:
        catalogue: where to look.
        name: the gate's name.

    Returns:
        The gate.

    Raises:
        ArgumentError: there is none; the message names the closest ones.
    """
    if name in catalogue:
        return catalogue[name]
    spelling = str(name).lower().replace("-", "_").replace(" ", "_")
    close = difflib.get_close_matches(spelling, catalogue, n=3, cutoff=0.6)
    close += [known for known in catalogue if spelling and spelling in known and known not in close]
    hint = f"did you mean {' or '.join(close[:3])}? " if close else ""
    raise ArgumentError(
        f"there is no gate called {name!r}; {hint}The catalogue has {', '.join(catalogue)}"
    )


def example_inputs(
    gate: Gate, seed: int = 0, sizes: Mapping[str, int] | None = None
) -> tuple[jax.Array, ...]:
    """Random inputs that fit a gate, for reports and trials.

    Args:
        gate: the gate.
        seed: of NumPy's generator.
        sizes: lengths of the signature's axes by name; by default 3, 4, 5 … in order of appearance.
            A gate without axes gets vectors of four.

    Returns:
        One array per input: float32, standard normal, or its magnitude (at least 1/4) where the
        gate's domain asks for it; int32 where it takes indices.
    """
    parsed = parse_signature(gate.signature)
    names = dict.fromkeys(axis for axes in parsed.inputs for axis in axes if not axis.isdigit())
    core = {axis: 3 + k for k, axis in enumerate(names)} | dict(sizes or {})
    lengths = Sizes(core, () if names else (4,))
    generator = np.random.default_rng(seed)
    indexed = dict(gate.indices)
    inputs = []
    for position, axes in enumerate(parsed.inputs):
        shape = lengths.shape(axes)
        if position in indexed:
            chosen = generator.integers(0, core[indexed[position]], shape)
            inputs.append(jnp.asarray(chosen, jnp.int32))
            continue
        values = generator.standard_normal(shape)
        domain = gate.domain[position] if gate.domain else "real"
        if domain != "real":
            magnitude = np.maximum(np.abs(values), 0.25)
            values = magnitude if domain == "positive" else np.copysign(magnitude, values)
        inputs.append(jnp.asarray(values, jnp.float32))
    return tuple(inputs)


def _custom_vjp(
    forward: Callable[..., Any], vjp: Callable[..., tuple[Any, ...]]
) -> Callable[..., Any]:
    rule = jax.custom_vjp(forward)

    def run(*inputs: Any) -> tuple[Any, tuple[Any, ...]]:
        return forward(*inputs), inputs

    def backward(inputs: tuple[Any, ...], cotangent: Any) -> tuple[Any, ...]:
        return tuple(vjp(cotangent, *inputs))

    rule.defvjp(run, backward)
    return rule


def _check_dtype(gate: Gate, name: str, value: Any, integer: bool) -> None:
    """Raises unless an input is an array of indices where it should be, and else of floats."""
    if not isinstance(value, (bool, int, float, complex, np.generic, np.ndarray, jax.Array)):
        raise ArgumentError(
            f"gate {gate.name!r}: {name} must be an array, got {value!r} "
            f"of type {type(value).__name__}"
        )
    dtype = jnp.result_type(value)
    given = short_type(jnp.shape(value), dtype)
    if integer:
        if not jnp.issubdtype(dtype, jnp.integer):
            raise ArgumentError(
                f"gate {gate.name!r}: {name} holds indices and must be of an integer dtype, "
                f"got {given}"
            )
    elif not jnp.issubdtype(dtype, jnp.floating):
        raise ArgumentError(
            f"gate {gate.name!r}: {name} must be of a real floating-point dtype to have a "
            f"derivative, got {given}; convert it, for example with jnp.float32({name})"
        )
