"""How a walk gets inside an operation: branches, loops, solves, and operations without a rule."""
