"""Language models driven block by block through the stock transformers modules, over a cache of ragged length.

Blocks are numbered 1..L, and ``h_k`` is the residual stream after block k, before the final norm (free.md, notation).
"""
