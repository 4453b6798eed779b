"""The computational graph of a call: its steps and their local gradients, node by node.

Gradients are JAX's own, node by node, so custom rules count as in `jax.grad` (where a rule differs
from the program it wraps, a note says so, and the structure shown is the rule's); each equals the
derivative of `graph.replay({name: change})`. A jitted function, a function of `jax.nn`, one with a
custom derivative, a `scan` or `cond` is one node; `expand="scan"` (a name, several, or `True`)
opens it: loops show the steps they make at this point, a `cond` the branch that it takes. Values
get the names of arguments and those given with `jax.ad_checkpoint.checkpoint_name`.

    graph = backprop(neuron, w, x)
    graph.gradients                          # by input, equal to jax.grad
    graph["v1"].value, graph["v1"].gradient  # of any value in between
    graph["v1"].local_gradients[0].vjp_formula
    # 'w̄ = x·v̄1'
    graph.group("sigmoid", ["v2", "v3", "v4", "out"])  # four gates as one, same gradients
    backprop(neuron, w, x, fold="sigmoid")             # the same, by the function's name
    graph.to_svg()                                     # and to_dot() for Graphviz

At most 2000 nodes are drawn. Two calls of one function that follow each other in the same line fold
into one node.
"""
