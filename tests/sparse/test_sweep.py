"""Sweeps: every entry is read once, from the image of seeds that nothing else meets there."""

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jacobians.sparse.pattern import Pattern
from jacobians.sparse.sweep import Wanted, plan_sweeps


def wanted(output, input_, matrix, out_shape, in_shape):
    """The block of a matrix's nonzero entries."""
    pattern = Pattern(out_shape, in_shape, None, np.flatnonzero(matrix))
    return Wanted(output, input_, pattern, ())


def joined(blocks):
    """One matrix of all blocks, by (output, input)."""
    outputs, inputs = (sorted({place[k] for place in blocks}) for k in (0, 1))
    return np.block([[blocks[o, i] for i in inputs] for o in outputs])


def read(sweeps, blocks, shapes):
    """Every block as its sweeps give it: images of the seeds, looked up."""
    whole = joined(blocks)
    order = list(blocks)
    found = {place: np.zeros(matrix.shape) for place, matrix in blocks.items()}
    times = {place: np.zeros(matrix.shape, int) for place, matrix in blocks.items()}
    for sweep in sweeps:
        operator = whole.T if sweep.transposed else whole
        seeds = np.concatenate(sweep.seeds)
        seeded = (seeds[:, None] == np.arange(sweep.coloring.count)).astype(float)
        images = (operator @ seeded).T
        sizes = [prod(s) for s in shapes[1 if sweep.transposed else 0]]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        for one in sweep.reads:
            place = order[one.block]
            rows, columns = np.nonzero(blocks[place])
            if one.span is not None:
                first, count = one.span
                lines = images[first : first + count, starts[one.leaf] : starts[one.leaf + 1]]
                found[place] += lines if sweep.transposed else lines.T
                times[place] += 1
                continue
            chosen = slice(None) if one.entries is None else one.entries
            values = images[one.colors, starts[one.leaf] + one.lines]
            found[place][rows[chosen], columns[chosen]] += values
            times[place][rows[chosen], columns[chosen]] += 1
    for place, matrix in blocks.items():
        assert (times[place][matrix != 0] == 1).all()
        np.testing.assert_allclose(found[place], matrix)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["forward", "reverse", "both"]))
def test_every_entry_of_every_block_is_read_once(seed, kinds):
    generator = np.random.default_rng(seed)
    shapes = [
        [(int(generator.integers(1, 4)), 2) for _ in range(int(generator.integers(1, 3)))]
        for _ in range(2)
    ]
    blocks = {}
    for o, out in enumerate(shapes[0]):
        for i, inp in enumerate(shapes[1]):
            matrix = generator.normal(size=(prod(out), prod(inp)))
            blocks[o, i] = matrix * (generator.uniform(size=matrix.shape) < generator.uniform())
    given_blocks = [
        wanted(o, i, matrix, shapes[0][o], shapes[1][i]) for (o, i), matrix in blocks.items()
    ]
    sweeps = plan_sweeps(given_blocks, *shapes, kinds != "reverse", kinds != "forward")
    if kinds != "both":
        assert all(sweep.transposed == (kinds == "reverse") for sweep in sweeps)
    assert sum(s.coloring.count for s in sweeps) <= sum(map(prod, shapes[kinds != "reverse"]))
    read(sweeps, blocks, shapes)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_every_entry_of_a_symmetric_matrix_is_read_once(seed):
    generator = np.random.default_rng(seed)
    n = int(generator.integers(1, 9))
    lower = np.tril(generator.normal(size=(n, n)) * (generator.uniform(size=(n, n)) < 0.4))
    blocks = {(0, 0): lower + lower.T}
    sweeps = plan_sweeps(
        [wanted(0, 0, blocks[0, 0], (n,), (n,))], [(n,)], [(n,)], True, True, symmetric=True
    )
    assert not any(sweep.transposed for sweep in sweeps)
    read(sweeps, blocks, [[(n,)], [(n,)]])


ARROW = np.eye(9) + np.eye(9)[:1].T * np.ones(9) + np.ones((9, 1)) * np.eye(9)[0]


@pytest.mark.parametrize(
    ("matrix", "counts"),
    [
        # a full row by a VJP, the rest by two JVPs
        (ARROW, {True: 1, False: 2}),
        (ARROW[:1], {True: 1}),
        (ARROW[:, :1], {False: 1}),
        (np.ones((3, 5)), {True: 3}),
        (np.ones((5, 3)), {False: 3}),
        (np.zeros((3, 3)), {}),
    ],
)
def test_jvps_and_vjps_are_chosen_by_counting(matrix, counts):
    shapes = [[(len(matrix),)], [(matrix.shape[1],)]]
    block = wanted(0, 0, matrix, shapes[0][0], shapes[1][0])
    sweeps = plan_sweeps([block], *shapes, True, True)
    assert {sweep.transposed: sweep.coloring.count for sweep in sweeps} == counts
    read(sweeps, {(0, 0): matrix}, shapes)


def test_a_full_block_is_seeded_without_a_list():
    matrix = np.arange(1.0, 13).reshape(4, 3)
    (sweep,) = plan_sweeps([wanted(0, 0, matrix, (2, 2), (3,))], [(2, 2)], [(3,)], True, False)
    assert sweep.full
    assert not any(len(one.colors) for one in sweep.reads)
    read([sweep], {(0, 0): matrix}, [[(2, 2)], [(3,)]])
