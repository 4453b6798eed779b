"""How the primitives of JAX are called: one table, for sentences, formulas and drawings.

What a primitive does is in `program.primitives`. One without a row is called by its own name.

    >>> in_words("reduce_sum"), in_formula("logistic"), in_graph("select_n"), on_sign("mul")
    ('sum', 'sigmoid', 'select', '×')
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Called:
    """A row of the table; None where the primitive's own name serves.

    Attributes:
        words: the name that a reader of the source line would use, in a sentence.
        formula: what stands before its operands in a formula.
        graph: the same in a graph, where the formula's name is no better.
        sign: what a small box of a graph shows, as the lecture draws it.
    """

    words: str | None = None
    formula: str | None = None
    graph: str | None = None
    sign: str | None = None


CALLED = {
    "add": Called(words="addition", sign="+"),
    "add_any": Called(words="addition", sign="+"),
    "broadcast_in_dim": Called(words="broadcast", graph="broadcast"),
    "clamp": Called(words="clip", formula="clip"),
    "concatenate": Called(formula="concat"),
    "conv_general_dilated": Called(words="convolution", graph="convolution"),
    "convert_element_type": Called(graph="convert"),
    "custom_linear_solve": Called(words="solve"),
    "div": Called(words="division", sign="÷"),
    "dot_general": Called(words="matrix product", graph="product", sign="·"),
    "dynamic_slice": Called(words="indexing", graph="slice"),
    "gather": Called(words="indexing"),
    "integer_pow": Called(words="power", sign="power"),
    "logistic": Called(words="sigmoid", formula="sigmoid"),
    "mul": Called(words="product", sign="×"),
    "neg": Called(words="negation", sign="×(−1)"),
    "pow": Called(words="power"),
    "reduce_max": Called(words="max", graph="max"),
    "reduce_min": Called(words="min", graph="min"),
    "reduce_prod": Called(words="prod"),
    "reduce_sum": Called(words="sum", graph="Σ"),
    "rem": Called(words="remainder"),
    "rev": Called(formula="flip"),
    "scatter-add": Called(words="scatter"),
    "select_n": Called(words="where", graph="select"),
    "sqrt": Called(formula="√"),
    "stop_gradient": Called(graph="stop"),
    "sub": Called(words="subtraction", sign="−"),
    "triangular_solve": Called(words="triangular solve"),
}
_AS_IT_IS = Called()


def in_words(op: str) -> str:
    """What a primitive is called in a sentence."""
    return CALLED.get(op, _AS_IT_IS).words or op


def in_formula(op: str) -> str:
    """What stands before the operands of a primitive in a formula."""
    return CALLED.get(op, _AS_IT_IS).formula or op


def in_graph(op: str) -> str:
    """What stands before the operands of a primitive in a graph."""
    called = CALLED.get(op, _AS_IT_IS)
    return called.formula or called.graph or op


def on_sign(op: str) -> str:
    """What a small box of a graph shows for a primitive."""
    called = CALLED.get(op, _AS_IT_IS)
    return called.sign or called.graph or op
