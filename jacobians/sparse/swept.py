"""A sweep as a program: seeds in, products through the linear map, entries read out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians.sparse.pattern import index_dtype
from jacobians.sparse.sweep import CHUNK_ELEMENTS, MAX_CONSTANT_SEEDS, Integers, Read, Sweep


@dataclass(frozen=True, eq=False)
class Program:
    """A sweep with its gather tables, for a number of colours at a time.

    Attributes:
        sweep: the sweep.
        chunk: colours at a time.
        tables: index arrays; the seeds first.
        kinds: how each read is looked up when one step does: 'all', 'transposed' or 'table'.
    """

    sweep: Sweep
    chunk: int
    tables: tuple[Integers, ...]
    kinds: tuple[str, ...]

    @property
    def steps(self) -> int:
        """How many times the linear map is applied to a batch."""
        return -(-self.sweep.coloring.count // self.chunk)

    def run(
        self,
        apply: Callable[..., list[Any]],
        tables: Sequence[Any],
        seed_types: Sequence[Any],
    ) -> list[Any]:
        """The entries of every read.

        Args:
            apply: the linear map, from one array per seeded leaf to one per result.
            tables: the index arrays, as given at run time.
            seed_types: shape and dtype of every seeded leaf.

        Returns:
            One flat array per read.
        """
        seeds, lookups = tables[: len(seed_types)], tables[len(seed_types) :]
        reads = self.sweep.reads
        leaves = sorted({read.leaf for read in reads})

        def of_seeds(*directions: Any) -> dict[int, Any]:
            images = apply(*directions)
            return {leaf: images[leaf] for leaf in leaves}

        def of_color(color: Any) -> dict[int, Any]:
            return of_seeds(
                *(
                    (s == color).astype(t.dtype).reshape(t.shape)
                    for s, t in zip(seeds, seed_types, strict=True)
                )
            )

        if self.steps == 1:
            count = self.sweep.coloring.count
            constant = _constant_seeds(seeds, seed_types, count)
            if count == 1:
                images = of_color(0)
            elif constant is not None:
                images = jax.vmap(of_seeds)(*constant)
            else:
                images = jax.vmap(of_color)(self._colors[0])
        elif self.sweep.full:
            images = jax.lax.map(jax.vmap(of_color), self._colors)
        else:
            return self._in_steps(jax.vmap(of_color), lookups)
        if self.sweep.full:
            return [self._lines(images[read.leaf], read) for read in reads]
        return [
            self._looked_up(images[read.leaf], table, kind)
            for read, table, kind in zip(reads, lookups, self.kinds, strict=True)
        ]

    @property
    def _colors(self) -> Any:
        """The colours of every step: int32 [steps, chunk]."""
        return jnp.arange(self.steps * self.chunk, dtype=jnp.int32).reshape(self.steps, -1)

    def _in_steps(self, of_colors: Callable[..., Any], lookups: Sequence[Any]) -> list[Any]:
        """The entries of every read where the images of all colours are too many to hold at once.

        Each step looks up those of its own colours; the table after puts all of them in order.
        """
        tables, orders = list(lookups[::2]), lookups[1::2]

        def step(_: None, given: Any) -> tuple[None, list[Any]]:
            colors, own = given
            images = of_colors(colors)
            return None, [
                picked(images[read.leaf].reshape(-1), table)
                for read, table in zip(self.sweep.reads, own, strict=True)
            ]

        _, entries = jax.lax.scan(step, None, (self._colors, tables))
        return [picked(e.reshape(-1), order) for e, order in zip(entries, orders, strict=True)]

    def _looked_up(self, image: Any, table: Any, kind: str) -> Any:
        """The entries of one read from the images of all colours."""
        if kind == "table":
            return picked(image.reshape(-1), table)
        if kind == "transposed":
            image = image.reshape(self.sweep.coloring.count, -1).T
        return image.reshape(-1)

    def _lines(self, images: Any, read: Read) -> Any:
        """A block without zeros from the images of its seeds: its rows, or its columns."""
        assert read.span is not None
        first, count = read.span
        lines = images.reshape(self.steps * self.chunk, -1)[first : first + count]
        return (lines if self.sweep.transposed else lines.T).reshape(-1)


def _constant_seeds(
    seeds: Sequence[Any], types: Sequence[Any], count: int
) -> list[Integers] | None:
    """All seeds as constants where colours are known while tracing and there are few seeds.

    What a program does to constants alone, a linear layer at its beginning for one, the compiler
    then does once and for all.
    """
    size = sum(prod(t.shape) for t in types)
    if not all(isinstance(s, np.ndarray) for s in seeds) or count * size > MAX_CONSTANT_SEEDS:
        return None
    colors = np.arange(count)[:, None]
    return [
        (s[None] == colors).astype(t.dtype).reshape(count, *t.shape)
        for s, t in zip(seeds, types, strict=True)
    ]


def picked(array: Any, table: Any) -> Any:
    """`array[table]` for a table that was made to lie within it: no bounds are looked after."""
    return array.at[table].get(mode="promise_in_bounds")


def program_of(sweep: Sweep, leaf_sizes: Sequence[int], chunk: int) -> Program:
    """A sweep with its tables.

    Args:
        sweep: the sweep.
        leaf_sizes: sizes of the leaves that are read from.
        chunk: colours at a time.
    """
    tables: list[Integers] = list(sweep.seeds)
    count = sweep.coloring.count
    steps = -(-count // max(1, min(chunk, count)))
    chunk = -(-count // steps)
    kinds = []
    for read in () if sweep.full else sweep.reads:
        size = leaf_sizes[read.leaf]
        dtype = index_dtype(chunk * max(size, 1))
        local = (read.colors % chunk).astype(dtype) * size + read.lines.astype(dtype)
        if steps == 1:
            kinds.append(_kind(local, count, size))
            tables.append(local if kinds[-1] == "table" else np.zeros(0, dtype))
            continue
        number = read.colors // chunk
        order = np.argsort(number, kind="stable")
        lengths = np.bincount(number, minlength=steps)
        widest = int(np.max(lengths, initial=0))
        firsts = np.cumsum(lengths) - lengths
        offset = np.arange(len(order)) - np.repeat(firsts, lengths)
        place = number[order].astype(np.int64) * widest + offset
        lookup = np.zeros(steps * widest, dtype=dtype)
        lookup[place] = local[order]
        back = np.empty(len(order), dtype=index_dtype(steps * widest))
        back[order] = place
        tables.extend((lookup.reshape(steps, widest), back))
    return Program(sweep, chunk, tuple(tables), tuple(kinds))


def _kind(local: Integers, count: int, size: int) -> str:
    """How `count` images of `size` numbers each are looked up by these positions among them."""
    if len(local) == count * size:
        everything = np.arange(len(local), dtype=local.dtype)
        if bool((local == everything).all()):
            return "all"
        if bool((local.reshape(size, count) == everything.reshape(count, size).T).all()):
            return "transposed"
    return "table"


def default_chunk(elements: int) -> int:
    """How many colours at a time keep a value of so many elements within bounds."""
    return max(1, CHUNK_ELEMENTS // max(elements, 1))
