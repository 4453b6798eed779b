"""What a Jacobian is made of: its kind, its entries, its properties, each with its evidence.

Every statement carries one of two words, and they are never mixed.

- *proved*: from the program, for every finite input of these shapes. A proved pattern may be too
  wide, never too narrow. Arrays that the function closes over are part of the program. Nothing that
  a sample or a rounding decides is proved: a constant that the program computes counts as zero only
  where no other rounding could make something else of it (0.1·3 − 0.3 is 0, and −7·10⁻⁹ once
  fused). The infinities and NaN that the program writes down itself are followed through every
  operation; where they leave an infinite derivative or NaN (∞ − ∞, 0·∞), nothing is proved to be
  zero by a mask, and a note says so.
- *observed*: at the points evaluated, whose number is printed: the given one and random ones. What
  is observed may be narrower: `jnp.sort` is proved dense and observed to be a permutation.

What decides how narrow a proof is:

- Indices with a known range (of `argmax`, `clip`, a counter, and what is computed from them) reach
  only the places that they can. `x.at[i].set(y)` with a known `i` that names a place twice keeps an
  entry for each, since JAX leaves open which one wins.
- Known zeros of a matrix last through products, factorisations, triangular solves and inverses: the
  inverse of a triangular matrix is triangular. Where a solver may exchange rows, so that rounding
  may leave small numbers outside the pattern, a note says so. Sparse matrices of
  `jax.experimental.sparse` count by their index arrays.
- Where constants with zeros are multiplied one after another, there are soon more paths than
  entries; then only the pattern is kept, with the formula where it holds. Where even that is too
  much to follow, every output depends on every input along the axes that the paths join, and a note
  says so.
- Formulas are given up, and structures kept, when a coefficient has more than six summands, and in
  loops. Matrix notation is for factors of at most two axes; beyond that the VJP is written by
  indices.

When the arguments have values, proof and numbers are confronted. A contradiction would be a bug of
this package; it is reported loudly, and the wide answer given. Explicit Jacobians are evaluated up
to 2 GiB, and observation stops at 16 million entries. Random programs look for contradictions:
`python scripts/fuzz.py structure --count 1000 --seed 0`; each comes again from its number.
"""
