"""The states of a decoder's blocks and the one head that reads them all, from the stock model (free.md 1a, 6).

Shape suffixes: B rows, S source tokens, T decoder positions, N target tokens of a batch (no padding), D width, V vocabulary.
Blocks are numbered 1..L; h_k = residual stream after block k, H_k = dropout(norm(h_k)), logits_k = W(c H_k).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from adaptive_inference.errors import UserError

#: Label of positions that no token is learned at.
IGNORED = -100


@dataclass(frozen=True)
class _Family:
    """Where a family keeps what comes after its blocks: dotted names below the model."""

    stack: str  #: module that runs the blocks
    after: tuple[str, ...]  #: what the stack does after the last block, in order, below `stack`
    blocks: str  #: list of the blocks, below `stack`


_T5 = _Family("decoder", ("final_layer_norm", "dropout"), "block")
_LLAMA = _Family("model", ("norm",), "layers")
_FAMILIES = {
    **dict.fromkeys(("t5", "mt5", "longt5"), _T5),
    **dict.fromkeys(("llama", "qwen2", "qwen3", "mistral"), _LLAMA),
    "gpt2": _Family("transformer", ("ln_f",), "h"),
    "opt": _Family("model.decoder", ("final_layer_norm", "project_out"), "layers"),
}


class LayerStates:
    """Reads H_k and logits_k of a stock model with a language modelling head; adds no parameter to it.

    Parameters
    ----------
    model
        Encoder-decoder (T5, mT5, LongT5) or decoder-only (Llama, Qwen2, Qwen3, Mistral, GPT-2, OPT).

    Attributes
    ----------
    blocks
        L, of the decoder.
    width
        D, of H_k.

    Raises
    ------
    UserError
        The model is of another family, or skips blocks at random in training.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        family = _FAMILIES.get(model.config.model_type)
        if family is None:
            raise UserError(
                f"models of the family {model.config.model_type!r} cannot be trained with exits; "
                f"allowed: {', '.join(_FAMILIES)}"
            )
        if getattr(model.config, "layerdrop", 0.0):
            raise UserError(
                f"layerdrop {model.config.layerdrop} skips blocks at random, and every exit needs its block; set it to 0"
            )
        self.model, self._family, self._stack = model, family, model.get_submodule(family.stack)
        self.blocks = len(getattr(self._stack, family.blocks))
        self.width = model.get_output_embeddings().in_features
        self._scale = self.width**-0.5 if getattr(model.config, "scale_decoder_outputs", False) else 1.0

    def __call__(
        self, batch: Mapping[str, Tensor], layers: Collection[int]
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Run the whole model and return H_k (N, D) of each layer asked for, and the tokens to predict (N,).

        Only positions with a label are returned, so padding costs no norm and no head.

        Parameters
        ----------
        batch
            ``input_ids``, ``attention_mask``, ``labels`` (B, T). An encoder-decoder's labels are the target; a
            decoder-only model's stand at the places of ``input_ids``, the source's are `IGNORED`.
        layers
            Of 1..L.
        """
        raw, tokens_N = self.raw(batch, layers)
        return {layer: self.read(layer, state_ND) for layer, state_ND in raw.items()}, tokens_N

    def raw(self, batch: Mapping[str, Tensor], layers: Collection[int]) -> tuple[dict[int, Tensor], Tensor]:
        """As a call, with h_k in place of H_k; of the last block H_L, which is all that stock models return of it."""
        run = self._encoder_decoder if self.model.config.is_encoder_decoder else self._decoder_only
        hidden, tokens_BT = run(batch)
        tokens = tokens_BT.flatten()
        places_N = (tokens != IGNORED).nonzero().squeeze(1)
        return {layer: hidden[layer].flatten(0, 1)[places_N] for layer in layers}, tokens[places_N]

    def read(self, layer: int, state_ND: Tensor) -> Tensor:
        """Return H_k of what `raw` gave for a layer: what the stack does after its last block."""
        if layer == self.blocks:
            return state_ND
        for name in self._family.after:
            module = getattr(self._stack, name)
            state_ND = state_ND if module is None else module(state_ND)
        return state_ND

    def logits(self, state_ND: Tensor) -> Tensor:
        """Return W(c H_k), (N, V)."""
        return self.model.get_output_embeddings()(state_ND * self._scale)

    def _encoder_decoder(self, batch: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the decoder's states (B, T, D), and the token that each position predicts (B, T)."""
        mask_BS, labels_BT = batch["attention_mask"], batch["labels"]
        encoded = self.model.get_encoder()(input_ids=batch["input_ids"], attention_mask=mask_BS)
        decoded = self._stack(
            input_ids=self.model.prepare_decoder_input_ids_from_labels(labels_BT),
            encoder_hidden_states=encoded.last_hidden_state,
            encoder_attention_mask=mask_BS,
            use_cache=False,
            output_hidden_states=True,
        )
        return decoded.hidden_states, labels_BT

    def _decoder_only(self, batch: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        """As `_encoder_decoder`; positions count real tokens, on whichever side the padding is."""
        mask_BT = batch["attention_mask"]
        decoded = self._stack(
            input_ids=batch["input_ids"],
            attention_mask=mask_BT,
            position_ids=(mask_BT.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
            output_hidden_states=True,
        )
        return decoded.hidden_states, nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
