"""Typed settings of the library: every key, its type and its meaning; checked when made, loads no torch."""
