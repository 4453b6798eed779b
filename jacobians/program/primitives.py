"""What the primitives of JAX do: one table, read by every part of the package.

A primitive is linear, moves entries, has no derivative, rounds nothing …: each is said once, in the
row of its family. The walk of a derivation, what is known of values, and the question whether a
rule is linear all read it here; how a primitive is called is in `notation.operation`. Every
primitive that JAX registers has a row, and one without a row is known to do nothing.

    >>> does("transpose", Does.LINEAR)
    True
    >>> primitive("gather").linear_in
    (0,)
"""

from dataclasses import dataclass
from enum import Flag, auto


class Does(Flag):
    """What can be said of a primitive."""

    # the result stays or jumps when a float operand moves a little, and JAX's tangent is 0
    NO_DERIVATIVE = auto()
    # entry by entry, operands broadcast
    ELEMENTWISE = auto()
    # linear in all operands together
    LINEAR = auto()
    # linear in either of its two operands
    PRODUCT = auto()
    # linear where the operands are finite: a NaN among them makes none of a tangent
    PIECEWISE_LINEAR = auto()
    # has no rule here: its own JVP is walked, and where JAX has none, it is as wide as can be
    LINEARISED = auto()
    # each result is its own operand, in another type or at another place of the program
    SAME_VALUE = auto()
    # entries are put elsewhere, up to their sign
    MOVES = auto()
    # entries of the operands in `linear_in` are put where the other operands, indices, say
    INDEXED = auto()
    # every entry of the result is an entry of an operand, or of its padding
    CHOOSES = auto()
    # every result is a sum of entries of the operands, chosen by operands that are integers
    ADDS = auto()
    # a call may add it around the operation that it is named after
    WRAPS = auto()
    # rounds nothing: with exact operands the results are exact
    EXACT = auto()
    COMPARES = auto()
    # whole numbers keep their sign
    KEEPS_SIGN = auto()
    # the result lies within what an operand is, or is small
    BOUNDED = auto()
    # has a value at ±∞, so that only a NaN makes a NaN of it
    HAS_LIMITS = auto()
    # what a library computes may be NaN where mathematics has a number
    MAY_BE_NAN = auto()
    # a library's function whose bounds are those of mathematics
    LIBRARY = auto()
    # looks at the bits of a float, or hands it to someone else, so that its type must not change
    TIED = auto()
    # makes random numbers of a key, or of nothing
    DRAWS = auto()
    # merely calls the program that it holds
    CALL = auto()
    # calls a program that has a derivative rule of its own
    CUSTOM_RULE = auto()
    # is exchanged between devices: with a single one, every value stays where it is
    COLLECTIVE = auto()
    # reads or changes an array in place; the function that does so is taken as a whole
    IN_PLACE = auto()


_NOTHING = Does(0)


@dataclass(frozen=True)
class Primitive:
    """A row of the table.

    Attributes:
        what: what the primitive does.
        linear_in: positions of the operands that it is linear in while the others stand still;
            those of `LINEAR` and `PRODUCT` are not listed.
        holds: the parameter that holds the program which it stands for, if it merely stands for
            one.
    """

    what: Does = _NOTHING
    linear_in: tuple[int, ...] = ()
    holds: str | None = None


_MOVES = Does.LINEAR | Does.MOVES | Does.EXACT
_INDEXED = Does.INDEXED | Does.CHOOSES | Does.ADDS | Does.EXACT

# a family a row: what its primitives do, and their names
_FAMILIES: tuple[tuple[Primitive, str], ...] = (
    # calls
    (Primitive(Does.CALL, holds="jaxpr"), "jit pjit"),
    (Primitive(Does.CALL, holds="call_jaxpr"), "call closed_call core_call"),
    (Primitive(holds="jaxpr"), "checkpoint eval_jaxpr remat remat2"),
    (Primitive(holds="fwd_jaxpr"), "remat_opt"),
    (Primitive(holds="call"), "custom_vmap_call"),
    (Primitive(Does.CUSTOM_RULE, holds="call_jaxpr"), "custom_jvp_call custom_vjp_call"),
    (Primitive(Does.CUSTOM_RULE, holds="fun_jaxpr"), "custom_vjp_call_jaxpr"),
    # control flow and what is entered in another way
    (Primitive(), "cond while scan custom_linear_solve shard_map"),
    (
        Primitive(),
        "bcoo_dot_general bcoo_dot_general_sampled bcoo_extract bcoo_sort_indices bcoo_todense "
        "bcoo_transpose bcsr_dot_general bcsr_extract bcsr_todense coo_matmat coo_matvec "
        "coo_todense csr_matmat csr_matvec csr_todense",
    ),
    (
        Primitive(Does.COLLECTIVE),
        "all_gather all_gather_invariant all_gather_reduced all_to_all pbroadcast pcast pmax pmean "
        "pmin ppermute psum psum2 psum_invariant psum_scatter reduce_scatter reduced_vary_cast "
        "unreduced_psum",
    ),
    (Primitive(Does.COLLECTIVE | Does.SAME_VALUE), "pvary"),
    (Primitive(Does.IN_PLACE), "get swap addupdate"),
    (Primitive(Does.TIED | Does.LINEARISED), "pure_callback io_callback ffi_call"),
    (
        Primitive(Does.LINEARISED),
        "call_hi_primitive custom_lin pallas_call ragged_all_to_all ragged_dot_general "
        "scaled_dot select_and_scatter stage",
    ),
    (Primitive(Does.LINEARISED | Does.DRAWS), "random_gamma rng_uniform"),
    # values that stay or jump
    (
        Primitive(Does.NO_DERIVATIVE),
        "after_all axis_index create_token dce_sink debug_callback debug_print empty empty2 eq_to "
        "full iota le_to lt_to lu_pivots_to_permutation mulhi partition_id platform_index "
        "random_clone random_fold_in random_seed random_split random_unwrap "
        "random_wrap shift_left shift_right_arithmetic shift_right_logical",
    ),
    (Primitive(Does.NO_DERIVATIVE | Does.DRAWS), "random_bits rng_bit_generator threefry2x32"),
    (Primitive(Does.NO_DERIVATIVE | Does.BOUNDED), "clz population_count"),
    (
        Primitive(Does.NO_DERIVATIVE | Does.EXACT),
        "and argmax argmin is_finite not or reduce_xor xor",
    ),
    (Primitive(Does.NO_DERIVATIVE | Does.EXACT | Does.BOUNDED), "reduce_and reduce_or"),
    (Primitive(Does.NO_DERIVATIVE | Does.EXACT | Does.COMPARES), "eq ge gt le lt ne"),
    (Primitive(Does.NO_DERIVATIVE | Does.EXACT | Does.HAS_LIMITS), "ceil floor round"),
    (
        Primitive(
            Does.NO_DERIVATIVE | Does.EXACT | Does.KEEPS_SIGN | Does.BOUNDED | Does.HAS_LIMITS
        ),
        "sign",
    ),
    (Primitive(Does.NO_DERIVATIVE | Does.EXACT | Does.TIED), "bitcast_convert_type"),
    (
        Primitive(Does.NO_DERIVATIVE | Does.SAME_VALUE | Does.MOVES | Does.EXACT),
        "stop_gradient",
    ),
    # the operand as it is
    (Primitive(Does.SAME_VALUE), "layout_constraint reshard"),
    (Primitive(Does.SAME_VALUE | Does.LINEAR), "device_put reduce_precision sharding_constraint"),
    (Primitive(Does.SAME_VALUE | _MOVES), "copy_p name optimization_barrier"),
    (Primitive(Does.SAME_VALUE | _MOVES | Does.WRAPS), "copy"),
    # entry by entry
    (
        Primitive(Does.ELEMENTWISE | Does.SAME_VALUE | Does.LINEAR | Does.WRAPS),
        "convert_element_type",
    ),
    (Primitive(Does.ELEMENTWISE | Does.LINEAR | Does.PIECEWISE_LINEAR), "add add_any sub"),
    (
        Primitive(Does.ELEMENTWISE | Does.PIECEWISE_LINEAR | _MOVES | Does.HAS_LIMITS),
        "neg",
    ),
    (Primitive(Does.ELEMENTWISE | Does.LINEAR | Does.EXACT), "complex conj imag real"),
    (Primitive(Does.ELEMENTWISE | Does.PRODUCT), "mul"),
    (Primitive(Does.ELEMENTWISE, linear_in=(0,)), "div"),
    (
        Primitive(
            Does.ELEMENTWISE
            | Does.PIECEWISE_LINEAR
            | Does.EXACT
            | Does.KEEPS_SIGN
            | Does.BOUNDED
            | Does.HAS_LIMITS
        ),
        "max min",
    ),
    (Primitive(Does.ELEMENTWISE | Does.EXACT | Does.BOUNDED | Does.HAS_LIMITS), "clamp"),
    (Primitive(Does.ELEMENTWISE | Does.MOVES | Does.EXACT | Does.HAS_LIMITS), "abs"),
    (Primitive(Does.ELEMENTWISE | Does.KEEPS_SIGN | Does.BOUNDED | Does.MAY_BE_NAN), "rem"),
    (Primitive(Does.ELEMENTWISE | Does.MAY_BE_NAN), "pow"),
    (Primitive(Does.ELEMENTWISE | Does.HAS_LIMITS), "exp"),
    (Primitive(Does.ELEMENTWISE | Does.HAS_LIMITS | Does.LIBRARY), "erf logistic tanh"),
    (Primitive(Does.ELEMENTWISE | Does.LIBRARY), "cos sin"),
    (Primitive(Does.ELEMENTWISE | Does.TIED), "nextafter"),
    (
        Primitive(Does.ELEMENTWISE),
        "acos acosh asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt cosh digamma erf_inv "
        "erfc exp2 expm1 igamma igamma_grad_a igammac integer_pow lgamma log log1p log2 "
        "one_minus_square polygamma polynomial random_gamma_grad regularized_incomplete_beta rsqrt "
        "sinh sqrt square tan zeta",
    ),
    # entries put elsewhere
    (Primitive(_MOVES), "reshape rev transpose"),
    (Primitive(_MOVES | Does.WRAPS), "broadcast_in_dim squeeze"),
    (Primitive(_MOVES | Does.ADDS), "concatenate pad slice split stack unstack"),
    (Primitive(_MOVES | Does.ADDS | Does.WRAPS), "expand_dims"),
    (Primitive(Does.MOVES | Does.CHOOSES | Does.ADDS | Does.EXACT), "tile"),
    # entries chosen
    (Primitive(_INDEXED, linear_in=(0,)), "dynamic_slice gather"),
    (Primitive(_INDEXED, linear_in=(0, 1)), "dynamic_update_slice"),
    (Primitive(_INDEXED, linear_in=(0, 2)), "scatter"),
    (Primitive(Does.ADDS, linear_in=(0, 2)), "scatter-add scatter_add"),
    (Primitive(linear_in=(0,)), "scatter-mul scatter_mul"),
    (
        Primitive(),
        "scatter-max scatter_max scatter-min scatter_min scatter-sub scatter_sub approx_top_k",
    ),
    (Primitive(Does.EXACT), "select_n"),
    (Primitive(Does.CHOOSES | Does.EXACT), "sort top_k"),
    (
        Primitive(Does.LINEARISED, linear_in=(0,)),
        "select_and_gather_add select_and_scatter_add",
    ),
    # entries summed and reduced
    (Primitive(Does.PRODUCT), "conv_general_dilated dot_general"),
    (Primitive(Does.LINEAR | Does.ADDS), "cumsum reduce_sum reduce_window_sum"),
    (Primitive(Does.CHOOSES | Does.EXACT | Does.BOUNDED), "cummax cummin"),
    (Primitive(Does.CHOOSES), "reduce_window_max reduce_window_min"),
    (Primitive(Does.EXACT | Does.BOUNDED), "reduce_max reduce_min"),
    (Primitive(), "cumlogsumexp cumprod reduce reduce_prod reduce_window"),
    # matrices
    (Primitive(Does.LINEAR), "fft"),
    (Primitive(linear_in=(1,)), "triangular_solve"),
    (Primitive(linear_in=(3,)), "tridiagonal_solve"),
    (
        Primitive(),
        "cholesky cholesky_update eig eigh geqp3 geqrf hessenberg householder_product lu ormqr qr "
        "schur svd symmetric_product tridiagonal",
    ),
)

PRIMITIVES = {name: row for row, names in _FAMILIES for name in names.split()}
_UNKNOWN = Primitive()


def primitive(name: str) -> Primitive:
    """The row of a primitive; an empty one where the table has none."""
    return PRIMITIVES.get(name, _UNKNOWN)


def does(name: str, what: Does) -> bool:
    """Whether all of this is said of a primitive."""
    return what in primitive(name).what


def named(what: Does) -> frozenset[str]:
    """The names of all primitives of which all of this is said."""
    return frozenset(name for name, row in PRIMITIVES.items() if what in row.what)
