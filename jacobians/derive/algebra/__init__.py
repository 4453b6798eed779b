"""Integer index relations and their coefficients: the algebra that derivatives are carried in."""
