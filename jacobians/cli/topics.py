"""`jacobians help TOPIC`: what the docstrings of the package say, printed.

A topic is a house's docstring, which tells the idea, and those of its main functions, which tell
arguments and errors. They are read from the source, so that none of the extras has to be installed.

    print(topic_text("evidence"))
"""

import ast
import difflib
import importlib.util
import inspect
from pathlib import Path

from jacobians.errors import ArgumentError

# by topic: a module, then the functions in modules, whose docstrings are printed
TOPICS: dict[str, tuple[str, ...]] = {
    "evidence": ("jacobians.structure",),
    "explain": ("jacobians.structure.explain", "jacobians.structure.explain:explain"),
    "check": ("jacobians.check", "jacobians.check.check:check_vjp"),
    "diagnose": ("jacobians.check.diagnose",),
    "audit": ("jacobians.check.audit", "jacobians.check.audit.audit:audit"),
    "backprop": ("jacobians.graph", "jacobians.graph.backprop:backprop"),
    "jacobian": ("jacobians.sparse", "jacobians.sparse.jacobian:jacobian"),
    "plan": ("jacobians.sparse.plan", "jacobians.sparse.plan:plan"),
    "gates": ("jacobians.gates",),
    "networks": ("jacobians.networks",),
    "testing": ("jacobians.testing", "jacobians.testing.vjp:vjp_test"),
    "contributing": ("jacobians",),
}

# where the first line of the docstring says too little, or too much for a line
SUMMARIES = {
    "evidence": "Proved and observed: what the words mean, and how narrow a proof is.",
    "explain": "What the Jacobian of a function is made of, block by block, with evidence.",
    "plan": "How `jacobian` computes each block of a Jacobian, and what that saves.",
    "testing": "Ready-made property tests of hand-written derivatives, for your repository.",
    "backprop": "The computational graph of a call, node by node, with its local gradients.",
    "networks": "Linear, two- and three-layer networks from gates, and how to train them.",
    "contributing": "The houses of the package, and what a newcomer touches.",
}


def topic_text(name: str) -> str:
    """The text of a topic.

    Args:
        name: one of `TOPICS`.

    Raises:
        ArgumentError: there is no such topic; the message names the closest ones and all there are.
    """
    if name not in TOPICS:
        close = difflib.get_close_matches(name, TOPICS, n=2)
        hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
        raise ArgumentError(f"no topic {name!r}; {hint}there are: {', '.join(TOPICS)}")
    parts = []
    for place in TOPICS[name]:
        module, _, function = place.partition(":")
        head = f"{module}.{function}" if function else module
        parts.append(f"{head}\n{'=' * len(head)}\n\n{_docstring(module, function)}")
    return "\n\n\n".join(parts)


def topics_text() -> str:
    """Every topic with its first sentence, aligned."""
    width = max(map(len, TOPICS))
    lines = [
        f"  {name:<{width}}  {SUMMARIES.get(name) or _first_line(places[0])}"
        for name, places in TOPICS.items()
    ]
    return "\n".join(["jacobians help TOPIC", *lines])


def _first_line(place: str) -> str:
    """The first line of a docstring."""
    module, _, function = place.partition(":")
    return _docstring(module, function).splitlines()[0]


def _docstring(module: str, function: str = "") -> str:
    """The docstring of a module, or of a function in it, from the source."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    node: ast.Module | ast.FunctionDef = tree
    if function:
        (node,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function)
    return inspect.cleandoc(ast.get_docstring(node) or "")
