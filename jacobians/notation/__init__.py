"""How values, indices, matrices and numbers are written."""
