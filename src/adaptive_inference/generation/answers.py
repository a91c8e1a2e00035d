"""One request answered: by plain ``model.generate``, or by early-exit decoding of the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptive_inference.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from adaptive_inference.decoding.generate import EarlyExitDecoding

#: A request: ``input_ids`` and, where it is not all ones, ``attention_mask``, ``(1, C)`` each, on the model's device.
Request = Mapping[str, "Tensor"]


@dataclass(frozen=True)
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
    """

    name: str
    model: PreTrainedModel
    decoding: EarlyExitDecoding | None = None

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
        if self.decoding is not None:
            options["custom_generate"] = self.decoding
        ids_1C = self.model.generate(**request, **options, **plain_cache(self.model))
        return ids_1C[0, prompt_columns(self.model, columns) :].tolist()


def prompt_columns(model: PreTrainedModel, columns: int) -> int:
    """Return how many columns the decoder starts from: the request's, or the one start token of an encoder-decoder."""
    return 1 if model.config.is_encoder_decoder else columns


def plain_cache(model: PreTrainedModel) -> dict[str, Any]:
    """Return the cache that ``generate`` is to be given: an empty one of the kind that it makes itself.

    transformers 5.23 sizes the cache of an encoder-decoder by its encoder, and fails where the decoder has more blocks;
    this one grows with them.
    """
    if not model.config.is_encoder_decoder:
        return {}
    from transformers import DynamicCache, EncoderDecoderCache

    return {"past_key_values": EncoderDecoderCache(DynamicCache(), DynamicCache())}
