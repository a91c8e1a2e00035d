"""Hyper-parameter search by cross-validation: what is tried, what it gave, and the command; see docs/search.md."""
