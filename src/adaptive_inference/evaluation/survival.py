"""How many tokens rows have left when they leave, and whether the rows that leave early are those that lose many."""

from __future__ import annotations

from typing import Any

import numpy as np

from adaptive_inference.exits.outputs import ExitOutputs
from adaptive_inference.tasks.quality import quality

#: Equal parts of (0, 1] in which shares of tokens are counted; the last one holds rows that kept all.
SHARES = 10


def survival(outputs: ExitOutputs, exits_N: np.ndarray) -> dict[str, Any]:
    """Return what was left of N rows that left after given layers.

    Parameters
    ----------
    outputs
        Of a model that removes tokens, with the survivors of all layers.
    exits_N
        Layers run for each row, (N,).

    Returns
    -------
    dict
        ``kept``: share of a row's tokens left in the layers that it ran, mean over these, then over rows.
        ``kept_at_exit``: exit layer -> rows by the share of their tokens that the layer before that exit ran on, in
        `SHARES` parts.
        ``exit_correlation``: Spearman's rank correlation, over rows, of the exit layer with the share of tokens left,
        mean over all layers of the model, the same for all rows, so that leaving early does not by itself mean more
        tokens; positive: rows that leave early lose many tokens. None where one of the two is the same for all rows.

    Raises
    ------
    ValueError
        The model removes no tokens.
    """
    if outputs.survivors is None:
        raise ValueError("these are outputs of a model that removes no tokens")
    kept_NL, length_N = outputs.survivors, outputs.lengths
    layers = kept_NL.shape[1]
    ran_NL = np.arange(layers) < exits_N[:, None]
    share_NL = kept_NL / length_N[:, None]
    at_exit_N = kept_NL[np.arange(len(exits_N)), exits_N - 1]
    part_N = (
        -(-SHARES * at_exit_N // length_N) - 1
    )  # in whole numbers: no share falls beside its part by rounding
    whole_N = share_NL.mean(1)
    varies = np.ptp(whole_N) > 0 and np.ptp(exits_N) > 0
    return {
        "kept": float(((share_NL * ran_NL).sum(1) / exits_N).mean()),
        "kept_at_exit": {
            str(layer): np.bincount(part_N[exits_N == layer], minlength=SHARES).tolist()
            for layer in outputs.exits
        },
        "exit_correlation": float(quality("spearman", exits_N, whole_N, None)) if varies else None,
    }
