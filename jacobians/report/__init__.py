"""Reports: the same findings as text, JSON and HTML."""
