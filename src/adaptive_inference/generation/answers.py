"""One request answered: by plain ``model.generate``, or by early-exit decoding of the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adaptive_inference.decoders.families import adapter_for
from adaptive_inference.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from adaptive_inference.decoding.generate import EarlyExitDecoding

#: A request: ``input_ids`` and, where it is not all ones, ``attention_mask``, ``(1, C)`` each, on the model's device.
Request = Mapping[str, "Tensor"]


class Answering:
    """A way to answer requests.

    Attributes
    ----------
    name
        How it is told from others.
    model
        In evaluation mode.
    decoding
        None: ``model.generate`` as transformers has it.

    Raises
    ------
    UserError
        The model's family is not served.
    """

    def __init__(self, name: str, model: PreTrainedModel, decoding: EarlyExitDecoding | None = None) -> None:
        self.name, self.model, self.decoding = name, model, decoding
        self._decoder = adapter_for(model)

    def __call__(self, request: Request, max_new_tokens: int, fixed: bool = False) -> list[int]:
        """Return the tokens written for one request, greedily, the end token included.

        Parameters
        ----------
        request
            One row.
        max_new_tokens
            Tokens at most.
        fixed
            Write exactly so many: there is then no end token.

        Raises
        ------
        UserError
            The request is not one row.
        """
        rows, columns = request["input_ids"].shape
        if rows != 1:
            raise UserError(f"a request of {rows} rows: requests are measured one by one; give each its own")
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": False, "num_beams": 1}
        if fixed:
            options |= {"eos_token_id": None, "min_new_tokens": max_new_tokens}
        if self.decoding is None:
            options["past_key_values"] = self._decoder.plain_cache()
        else:
            options["custom_generate"] = self.decoding
        ids_1C = self.model.generate(**request, **options)
        return ids_1C[0, self.prompt(columns) :].tolist()

    def prompt(self, columns: int) -> int:
        """Return how many columns the decoder starts from: the request's, or an encoder-decoder's one start token."""
        return 1 if self._decoder.encoder_decoder else columns
