"""What the operations of a program are called, in words and in symbols."""

SHORT = {
    "broadcast_in_dim": "broadcast", "reduce_sum": "Σ", "reduce_max": "max", "reduce_min": "min",
    "select_n": "select", "dynamic_slice": "slice", "dot_general": "product",
    "convert_element_type": "convert",
    "conv_general_dilated": "convolution", "stop_gradient": "stop",
}  # fmt: skip
# what a small box shows, as the lecture draws it
SYMBOLS = {"add": "+", "add_any": "+", "sub": "−", "mul": "×", "div": "÷", "neg": "×(−1)",
           "dot_general": "·", "reduce_sum": "Σ", "integer_pow": "power"}  # fmt: skip

# operations by the name that a reader of the source line would use
OPERATIONS = {
    "reduce_sum": "sum", "reduce_max": "max", "reduce_min": "min", "reduce_prod": "prod",
    "dot_general": "matrix product", "div": "division", "mul": "product", "sub": "subtraction",
    "add": "addition", "add_any": "addition", "integer_pow": "power", "pow": "power",
    "broadcast_in_dim": "broadcast", "conv_general_dilated": "convolution",
    "select_n": "where", "logistic": "sigmoid", "custom_linear_solve": "solve",
    "triangular_solve": "triangular solve", "gather": "indexing", "dynamic_slice": "indexing",
    "scatter-add": "scatter", "neg": "negation", "rem": "remainder", "clamp": "clip",
}  # fmt: skip

CALLS = {
    "exp": "exp", "log": "log", "sin": "sin", "cos": "cos", "tanh": "tanh", "logistic": "sigmoid",
    "sqrt": "√", "abs": "abs", "max": "max", "min": "min", "rev": "flip", "clamp": "clip",
    "concatenate": "concat", "argsort": "argsort", "and": "and", "or": "or", "not": "not",
}  # fmt: skip
