"""A progress bar for whoever watches a terminal; nothing otherwise.

`for gate in progress(gates, "gates"):`
"""

import sys
from collections.abc import Collection, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def progress(items: Iterable[T], what: str) -> Iterator[T]:
    """The items, with a bar on a terminal's error output where rich is installed.

    Args:
        items: what to go through.
        what: what the bar is called.

    Yields:
        The items.
    """
    few = isinstance(items, Collection) and len(items) < 2
    if not sys.stderr.isatty() or few:
        yield from items
        return
    try:
        from rich.progress import track
    except ImportError:
        yield from items
        return
    from rich.console import Console

    yield from track(items, what, console=Console(stderr=True), transient=True)
