"""What a Jacobian is made of: its kind, its entries, its properties."""
