"""Which operations a walk gets inside of, and how: by the name of the primitive."""

from jacobians.derive.inside.branches import cond
from jacobians.derive.inside.devices import collective, own_index, shard_map
from jacobians.derive.inside.linearised import implemented, linearised
from jacobians.derive.inside.loops import scan, while_loop
from jacobians.derive.inside.rewritten import reordered, sparse_product
from jacobians.derive.inside.solves import linear_solve
from jacobians.derive.rules import sparse_products
from jacobians.derive.walk import Handler, Inside
from jacobians.program.primitives import Does, named

HANDLERS: dict[str, Handler] = {
    "cond": cond,
    "while": while_loop,
    "scan": scan,
    "custom_linear_solve": linear_solve,
    "reshape": reordered,
    "shard_map": shard_map,
    "axis_index": own_index,
    **dict.fromkeys(named(Does.COLLECTIVE), collective),
    **dict.fromkeys(sparse_products.DEFINITIONS, sparse_product),
}
INSIDE = Inside(HANDLERS, linearised, implemented)
