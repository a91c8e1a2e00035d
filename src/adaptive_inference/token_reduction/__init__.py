"""Tokens that are removed on a row's way through an encoder (AdapLeR)."""
