"""A saved tokenizer by `tokenizers` alone, called as transformers' are in `encode`. Loads neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from adaptive_inference.errors import blamed_on

TOKENIZER_FILE = "tokenizer.json"


class FastTokenizer:
    """Turns texts into ids, types and masks.

    Parameters
    ----------
    file
        ``tokenizer.json``.
    names
        Columns to return, of ``input_ids``, ``attention_mask`` and ``token_type_ids``.
    pad_token_id
        What pads rows; kept for those who stack them.
    truncation_side
        ``left`` or ``right``: where a text that is too long is cut.

    Raises
    ------
    UserError
        The file is missing or damaged.
    """

    def __init__(self, file: Path, names: Sequence[str], pad_token_id: int, truncation_side: str) -> None:
        with blamed_on(file, "export the model again, or copy its folder again"):
            self._tokenizer = Tokenizer.from_file(str(file))
        self._tokenizer.no_padding()
        self._names, self._side = names, truncation_side
        self.pad_token_id = pad_token_id

    def __call__(
        self,
        *columns: Sequence[str],
        truncation: bool = False,
        max_length: int | None = None,
        **ignored: object,
    ) -> dict[str, list[list[int]]]:
        """Tokenise rows of one or two texts, without padding.

        Parameters
        ----------
        columns
            First texts of all rows and, of pairs, second texts.
        truncation, max_length
            Cut to so many tokens, of a pair the longer text first; False cuts nothing.

        Returns
        -------
        dict of lists
            One list of ids for each row, by name.
        """
        if truncation:
            self._tokenizer.enable_truncation(max_length, strategy="longest_first", direction=self._side)
        else:
            self._tokenizer.no_truncation()
        rows = list(zip(*columns, strict=True)) if len(columns) > 1 else list(columns[0])
        found = self._tokenizer.encode_batch(rows)
        parts = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        return {name: [getattr(row, parts[name]) for row in found] for name in self._names}
