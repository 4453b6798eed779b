"""All hand-written rules in a program, found and checked where they are called."""
