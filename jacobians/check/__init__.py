"""Is this derivative right? The explicit Jacobian against what a rule claims."""
