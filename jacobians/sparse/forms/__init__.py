"""The forms in which a Jacobian is handed out: pieces, operators and matrix formats."""
