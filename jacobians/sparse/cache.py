"""What is kept between calls: derivations and plans by the fingerprint of the program.

Threads share it. What is kept of a program is never changed but added to, each addition the same
whoever makes it: of two threads that have made the same thing at once, both go on with the first.
"""

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import jax

from jacobians import program
from jacobians.errors import ArgumentError
from jacobians.program.view import Program
from jacobians.sparse.bind import Bound
from jacobians.sparse.fingerprint import digest, fingerprint
from jacobians.sparse.linear import Linear, Plain, is_concrete
from jacobians.sparse.prepare import linear_programs, prepare, reason_of
from jacobians.sparse.prepared import Prepared

Kept = TypeVar("Kept")

MAX_KEPT = 64
MAX_KEPT_BYTES = 1 << 30


@dataclass(eq=False)
class Entry:
    """What is kept of one traced program.

    Attributes:
        prepared: its plan and tables.
        compiled: `prepared.evaluate` under `jax.jit`.
        kept: index arrays that results share, and proofs, made when first needed; added to by
            `setdefault` alone, so that threads come to share them too.
    """

    prepared: Prepared
    compiled: Any
    kept: dict[Any, Any] = field(default_factory=dict)


class _Cache(Generic[Kept]):
    """Values by key, the latest used ones; at most so many, and so many bytes."""

    def __init__(self, size: Callable[[Kept], int]) -> None:
        self.entries: OrderedDict[Any, Kept] = OrderedDict()
        self.size = size
        self.lock = threading.Lock()

    def get(self, key: Any) -> Kept | None:
        """The value of a key, which becomes the latest used, or None."""
        with self.lock:
            found = self.entries.get(key)
            if found is not None:
                self.entries.move_to_end(key)
            return found

    def keep(self, key: Any, value: Kept) -> Kept:
        """Keeps a value, and gives what is kept: another's, where a thread has been faster."""
        with self.lock:
            kept = self.entries.setdefault(key, value)
            self.entries.move_to_end(key)
            while len(self.entries) > MAX_KEPT or (
                len(self.entries) > 1
                and sum(map(self.size, self.entries.values())) > MAX_KEPT_BYTES
            ):
                self.entries.popitem(last=False)
            return kept

    def clear(self) -> None:
        """Forgets every value."""
        with self.lock:
            self.entries.clear()


_cache: _Cache[Entry] = _Cache(lambda entry: entry.prepared.bytes())
_products: _Cache[tuple[Any, Any, Any]] = _Cache(lambda _: 0)


def clear_cache() -> None:
    """Forgets every analysis that is kept between calls."""
    _cache.clear()
    _products.clear()


def entry_for(
    bound: Bound, chunk_size: int | None, symmetric: bool, factors: bool = False
) -> Entry:
    """The analysis of a traced call, from the cache or made now.

    Args:
        bound: the call.
        chunk_size: colours at a time, or None.
        symmetric: whether it is the gradient of a function.
        factors: whether outer products are wanted as their two factors.
    """
    plain = bound.plain
    options = (_known(plain), plain.selected, plain.results, chunk_size, symmetric, factors)
    linears = None
    if program.contains(plain.program, frozenset(program.CUSTOM_RULES)):
        # a rule is a new object at every trace; where it has been applied, its program tells
        linears = linear_programs(plain)
        traced = any(isinstance(x, jax.core.Tracer) for x in bound.runtime)
        inner = next(linear.whole for linear in linears if linear is not None)
        key: Any = (fingerprint(inner, rules=traced), _constants(inner), traced, options)
    else:
        key = (fingerprint(plain.program), options)
    entry = _cache.get(key)
    if entry is None:
        with _usual_promotion():
            linears = linears if linears is not None else linear_programs(plain)
            try:
                prepared = prepare(plain, chunk_size, symmetric, factors, linears)
            except _FAULTS as fault:
                # by here JAX has differentiated the function: what fails is the analysis
                prepared = _without_structure(plain, chunk_size, linears, fault)
        entry = Entry(prepared, jax.jit(prepared.evaluate, static_argnums=2))
        if prepared.cacheable:
            entry = _cache.keep(key, entry)
    return entry


# what a fault of the analysis may raise; what JAX cannot differentiate raises before it
_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
)


def _without_structure(
    plain: Plain,
    chunk_size: int | None,
    linears: tuple[Linear | None, Linear | None],
    fault: Exception,
) -> Prepared:
    """The plan of `jax.jacobian` itself, where a structure cannot be derived; it is said so.

    Raises:
        ArgumentError: what was to be listed is too large for that too.
    """
    if isinstance(fault, ArgumentError):
        raise fault
    note = (
        f"no structure could be derived ({reason_of(fault)}): every entry is computed, as "
        "jax.jacobian does; the numbers are right, and this is a fault of jacobians worth reporting"
    )
    warnings.warn(note, RuntimeWarning, stacklevel=2)
    return prepare(plain, chunk_size, linears=linears, closed=False, note=note)


@contextmanager
def _usual_promotion() -> Iterator[None]:
    """The promotion that our own arithmetic needs, whatever the caller has set for theirs."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _known(plain: Plain) -> tuple[Any, ...]:
    """Keys of the values that an analysis may use, by position."""
    constants = [(k, digest(c)) for k, c in enumerate(plain.constants) if is_concrete(c)]
    leaves = [(-1 - k, digest(v)) for k, v in plain.known.items()]
    return (*constants, *leaves)


def _constants(inner: Program) -> tuple[Any, ...]:
    """Keys of the values that a program closes over."""
    return tuple(digest(value) for _, value in inner.constants)
