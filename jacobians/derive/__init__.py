"""From a program to its Jacobian blocks: one walk over the equations, one rule per operation."""
