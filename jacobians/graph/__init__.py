"""The computational graph of a call: its steps, their local gradients, and where to draw them."""
