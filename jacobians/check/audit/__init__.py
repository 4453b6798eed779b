"""All hand-written rules in a program, found and checked where they are called.

- Give `audit` the function that is differentiated, not its gradient: inside `jax.grad` the rules
  are gone; those whose traces are left are listed as not checked.
- A rule that is called but never differentiated (on integers, on arrays that no argument moves, for
  results that no output needs) is listed as "not differentiated here" and is no failure. Of several
  results of a rule only those count that a cotangent can come back to: a solver's state that nobody
  uses is not compared.
- Calls of one rule with operands of one type share a line. All of them are compared in one random
  direction, in float64; the `limit` (2) that differ most, and any that differ at all, entry by
  entry. Of loops longer than 64 steps, 64 are looked at. Whatever was left out is said.
- Rules of JAX itself, such as that of `jax.nn.relu`, are listed apart and checked with
  `library=True`.
- Operands that are numbers written in the program (`eps=1e-6`) need no cotangent. Nor do arrays
  that the audited function closes over or makes itself, such as masks, if the rule gives them none
  or raises for them; otherwise they are checked too. Arrays that the rule's own function closes
  over are held, since a rule says nothing about them. Operands that are one array in every call
  count together where they are not right one by one.
- Rules in bfloat16 and float16 are compared in float64, their conversions left out.
- Operations that hold programs of their own, such as `shard_map` and `custom_linear_solve`, are not
  entered, and complex operands not checked; such rules are listed as not checked, and the audit
  fails.
"""
