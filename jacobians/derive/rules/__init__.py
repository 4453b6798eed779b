"""The derivative of every operation, a file for each family."""
