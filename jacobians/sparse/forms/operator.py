"""A Jacobian as an operator: products with it and with its transpose, never its entries."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from jacobians import program
from jacobians.errors import ArgumentError
from jacobians.program.call import short_type
from jacobians.sparse.forms.lineax_export import by_its_products, load_lineax
from jacobians.sparse.forms.pieces import _check_real
from jacobians.sparse.linear import FORWARD_REFUSED, Plain, forward, reverse
from jacobians.sparse.linearity import is_linear


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["runtime"],
    meta_fields=["push", "pull", "in_tree", "out_tree", "in_types", "out_types"],
)
@dataclass(frozen=True, eq=False)
class JacobianOperator:
    """The Jacobian of a function at a point as a linear map that lists no entries; a pytree.

    Attributes:
        runtime: the point, and what the function closes over.
        push: from the point and tangents to tangents.
        pull: from the point and cotangents to cotangents.
        in_tree: pytree structure of tangents: of the argument, a tuple for several.
        out_tree: pytree structure of cotangents: of the result.
        in_types: shape and dtype of the input leaves.
        out_types: shape and dtype of the output leaves.
    """

    runtime: Any
    push: Callable[..., Any]
    pull: Callable[..., Any]
    in_tree: Any
    out_tree: Any
    in_types: tuple[Any, ...]
    out_types: tuple[Any, ...]

    def __repr__(self) -> str:
        ins, outs = (
            ", ".join(short_type(t.shape, t.dtype) for t in types)
            for types in (self.in_types, self.out_types)
        )
        m, n = self.shape
        return f"<JacobianOperator {m}×{n}: {ins} → {outs}>"

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the matrix of all results by all inputs."""
        return sum(prod(t.shape) for t in self.out_types), sum(prod(t.shape) for t in self.in_types)

    def jvp(self, tangent: Any) -> Any:
        """The image of a tangent, in the pytree of the argument → that of the result."""
        leaves = _leaves(tangent, self.in_tree, self.in_types, "tangent")
        return jax.tree.unflatten(self.out_tree, self.push(self.runtime, leaves))

    def vjp(self, cotangent: Any) -> Any:
        """The image of a cotangent, in the pytree of the result → that of the argument."""
        leaves = _leaves(cotangent, self.out_tree, self.out_types, "cotangent")
        return jax.tree.unflatten(self.in_tree, self.pull(self.runtime, leaves))

    def __matmul__(self, other: Any) -> Any:
        """The product with a tangent, or of the whole matrix with a flat vector or a matrix."""
        n = self.shape[1]
        flat = isinstance(other, jax.Array) or hasattr(other, "__array__")
        alone = len(self.in_types) == 1 and jnp.shape(other) == self.in_types[0].shape
        if not flat or (alone and jax.tree.structure(other) == self.in_tree):
            return self.jvp(other)
        _check_real([other], "array")
        if jnp.ndim(other) == 1 and jnp.shape(other)[0] == n:
            return self._flat(jnp.asarray(other))
        if jnp.ndim(other) == 2 and jnp.shape(other)[0] == n:
            return jax.vmap(self._flat, in_axes=1, out_axes=1)(jnp.asarray(other))
        raise ArgumentError(
            f"cannot multiply a {self.shape[0]}×{n} Jacobian with an array of shape "
            f"{jnp.shape(other)}; expected a tangent, ({n},) or ({n}, k)"
        )

    def _flat(self, vector: Any) -> Any:
        leaves, first = [], 0
        for t in self.in_types:
            leaves.append(vector[first : first + prod(t.shape)].reshape(t.shape).astype(t.dtype))
            first += prod(t.shape)
        return jnp.concatenate([jnp.reshape(y, -1) for y in self.push(self.runtime, leaves)])

    def to_lineax(self) -> Any:
        """The operator as a `lineax.FunctionLinearOperator` of the argument's pytree.

        Raises:
            ArgumentError: lineax is not installed.
        """
        lineax = load_lineax()
        structure = jax.tree.unflatten(self.in_tree, list(self.in_types))
        return by_its_products(lineax, self, structure)


def _leaves(given: Any, tree: Any, types: tuple[Any, ...], what: str) -> list[Any]:
    leaves, structure = jax.tree.flatten(given)
    shapes = [tuple(jnp.shape(x)) for x in leaves]
    if structure != tree:
        raise ArgumentError(f"the {what} is of structure {structure}; expected {tree}")
    if shapes != [tuple(t.shape) for t in types]:
        expected = ", ".join(str(tuple(t.shape)) for t in types)
        found = ", ".join(map(str, shapes))
        plural = "s" if len(shapes) > 1 else ""
        raise ArgumentError(f"the {what} has shape{plural} {found}; expected {expected}")
    _check_real(leaves, what)
    return [jnp.asarray(x, t.dtype) for x, t in zip(leaves, types, strict=True)]


def operator(
    plain: Plain, runtime: Sequence[Any], in_tree: Any, out_tree: Any, compiled: Any
) -> tuple[list[Any], JacobianOperator]:
    """The function's outputs at a point, and its Jacobian there as an operator.

    Args:
        plain: the traced function.
        runtime: values of its constants and leaves.
        in_tree: pytree structure of what is differentiated with respect to.
        out_tree: pytree structure of the result.
        compiled: `products(plain)`, possibly of an equal program traced before.
    """
    values, push, pull = compiled
    types = plain.types()
    first = len(plain.program.constants)
    results = plain.program.outputs[: plain.results]
    made = JacobianOperator(
        list(runtime),
        push,
        pull,
        in_tree,
        out_tree,
        tuple(types[first + k] for k in plain.selected),
        tuple(jax.ShapeDtypeStruct(tuple(a.aval.shape), a.aval.dtype) for a in results),
    )
    return values(list(runtime)), made


def products(plain: Plain) -> tuple[Any, Any, Any]:
    """The outputs, JVP and VJP of a traced function, compiled when first called."""

    def values(runtime: Any) -> Any:
        first = len(plain.program.constants)
        return program.run(plain.program, runtime[first:], constants=runtime[:first])

    def push(runtime: Any, tangents: Any) -> Any:
        # the linear program rather than `jax.jvp`: a rule for VJPs alone may stand where nothing
        # that is returned comes from
        linear = forward(plain)
        if program.contains(linear.program, FORWARD_REFUSED):
            return _transposed(pull, plain, runtime, tangents)
        return tuple(linear.at(runtime)[1](*tangents))

    def pull(runtime: Any, cotangents: Any) -> Any:
        f, point = plain.split(runtime)
        return jax.vjp(f, *point, has_aux=True)[1](tuple(cotangents))

    return jax.jit(values), jax.jit(push), jax.jit(pull)


def _transposed(pull: Any, plain: Plain, runtime: Any, tangents: Any) -> Any:
    """JVPs as the transpose of VJPs, which takes a rule that is linear in the cotangent."""
    linear = reverse(plain)
    directions = range(linear.runtime, linear.runtime + linear.directions)
    if not is_linear(linear.whole, directions):
        raise ArgumentError(
            "the function has a custom_vjp whose rule is not certainly linear in the cotangent, so "
            "that the operator has a vjp but no jvp and no product with a vector; use another "
            "format, which applies the rule row by row as jax.jacobian does"
        )
    types = tuple(
        jax.ShapeDtypeStruct(program.shape_of(a), program.dtype_of(a))
        for a in plain.program.outputs[: plain.results]
    )
    transpose = jax.linear_transpose(lambda cotangents: pull(runtime, cotangents), types)
    return transpose(tuple(tangents))[0]
