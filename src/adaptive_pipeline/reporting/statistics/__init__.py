"""How sure a figure is, and whole curves in one number."""
