"""Explanations of a model's answer, one score per token."""
