"""Removal for real: which tokens stay.

Shape suffixes: B rows, N tokens.
"""

from torch import Tensor


def kept_tokens(score_BN: Tensor, tokens_BN: Tensor, eta: Tensor | float) -> Tensor:
    """Return which tokens stay, (B, N) bool: the first of each row, and those of at least eta / n (adapler.md 1.3, 1.10).

    Parameters
    ----------
    score_BN
        Contributions.
    tokens_BN
        Nonzero where a token is, 0 for padding; the first of a row is a token. Padding never stays.
    eta
        Share of the uniform contribution, 1 / n with n tokens in the row, that a token needs.
    """
    there_BN = tokens_BN.bool()
    kept_BN = there_BN & (score_BN >= eta / there_BN.sum(1, keepdim=True))
    kept_BN[:, 0] = True
    return kept_BN
