"""Rows of random tokens, and one padded batch of them."""

import numpy as np


def texts(count, seed, longest=14):
    draw = np.random.default_rng(seed)
    return [draw.integers(5, 60, draw.integers(1, longest + 1)) for _ in range(count)]


def padded(rows, extra=0):
    """One batch, padded on the right, with some columns that no row needs."""
    width = max(map(len, rows)) + extra
    ids, mask = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)], mask[place, : len(row)] = row, 1
    return {"input_ids": ids, "attention_mask": mask}
