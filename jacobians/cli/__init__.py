"""The command `jacobians`."""
