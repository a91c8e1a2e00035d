"""Early-exit decoding as the loop of ``model.generate``: ``model.generate(**inputs, custom_generate=decoding)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from adaptive_inference.decoders.families import adapter_for
from adaptive_inference.decoding.confidence import AgreementClassifier
from adaptive_inference.decoding.layerwise import Layerwise
from adaptive_inference.decoding.policy import SHALLOW_DEEP, DecodingPolicy
from adaptive_inference.decoding.shallow_deep import ShallowDeep
from adaptive_inference.decoding.state import Texts
from adaptive_inference.decoding.trace import Trace
from adaptive_inference.errors import UserError

if TYPE_CHECKING:
    from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
    from transformers.utils import ModelOutput

    # scipy comes with it, and no deployment has it
    from adaptive_inference.decoding.adaptive import AdaptiveThreshold

#: Options of ``generate`` that this loop has no answer for -> what to do.
UNSERVED = {
    "output_scores": "scores of tokens that are taken back later would be wrong; leave it out",
    "output_logits": "logits of tokens that are taken back later would be wrong; leave it out",
    "output_attentions": "not every token has been through every block; leave it out",
    "output_hidden_states": "not every token has been through every block; leave it out",
}


class EarlyExitDecoding:
    """Writes with a policy, wherever ``model.generate`` takes a loop of one's own.

    The processors and stopping criteria that ``generate`` makes are honoured, at tokens of all blocks as well. The
    model and its configuration are not changed. Greedy and sampled writing; no beams.

    Parameters
    ----------
    policy
        Which blocks a token takes.
    adaptive
        Learns the threshold of ``keep`` from one call to the next; the policy's threshold is then not read.
    classifier
        For confidence ``classifier``.
    observe
        Compare every token that left early with that of all blocks, where these see it: the trace then knows what
        agreed. ``keep`` pays one row of the vocabulary projection for each.
    defer
        Read what the blocks above say together with the next step's confidences, so that the host waits once per step;
        the step is in vain where a text ends or a token is taken back. None: so for ``keep``, and for the others on an
        accelerator; on a CPU there is nothing to wait for.

    Attributes
    ----------
    trace
        What the last call did; None before it, and after a call that failed.

    Raises
    ------
    UserError
        The estimate or the classifier does not go with the policy.

    Examples
    --------
    >>> decoding = EarlyExitDecoding(DecodingPolicy("verify", exit_layer=2, threshold=0.6))  # doctest: +SKIP
    >>> ids = model.generate(**inputs, max_new_tokens=64, custom_generate=decoding)  # doctest: +SKIP
    >>> decoding.trace.rows[0].depth  # doctest: +SKIP
    [2, 2, 12, 2]
    """

    def __init__(
        self,
        policy: DecodingPolicy,
        adaptive: AdaptiveThreshold | None = None,
        *,
        classifier: AgreementClassifier | None = None,
        observe: bool = False,
        defer: bool | None = None,
    ) -> None:
        if adaptive is not None and policy.kind != "keep":
            raise UserError(f"policy {policy.kind!r} has no threshold to estimate; only 'keep' has")
        if (classifier is None) != (policy.measure != "classifier"):
            raise UserError(
                f"confidence {policy.measure!r} and classifier {type(classifier).__name__}: give a classifier with "
                "confidence 'classifier', and with no other"
            )
        self.policy, self.adaptive, self.classifier, self.observe = policy, adaptive, classifier, observe
        self.defer = defer
        self.trace: Trace | None = None

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> Tensor | ModelOutput:
        """Write, as ``generate`` asks its loops to.

        Returns
        -------
        Token ids ``(B, C)``, or transformers' output object where ``return_dict_in_generate`` is set.

        Raises
        ------
        UserError
            The model is not served (`decoders.adapter_for`), the policy does not fit it, or an option of ``generate`` is not
            served.
        """
        self.trace = None
        decoder = adapter_for(model)
        self.policy.check(decoder.num_blocks, bool(generation_config.do_sample))
        if generation_config.do_sample and (self.observe or self.adaptive is not None):
            raise UserError(
                "do_sample=True: two tokens that are drawn differ by chance, which says nothing of what all blocks would "
                "write; sample without `observe` and without an estimated threshold, or set do_sample=False"
            )
        limit = stopping_criteria.max_length
        _check(input_ids, stopping_criteria, generation_config, synced_gpus, streamer, model_kwargs)
        padding_B = _padding(decoder.encoder_decoder, input_ids, model_kwargs.get("attention_mask"))
        sources = {}
        if decoder.encoder_decoder:
            sources["encoder_hidden"] = model_kwargs["encoder_outputs"][0]
            sources["encoder_mask"] = model_kwargs.get("attention_mask")
        cache = decoder.start(len(input_ids), capacity=limit - 1, padding_B=padding_B, **sources)
        threshold = self.policy.threshold if self.adaptive is None else self.adaptive.begin()
        texts = Texts(
            decoder, cache, input_ids, padding_B,
            limit=limit, processors=logits_processor, criteria=stopping_criteria,
            sampling=bool(generation_config.do_sample), threshold=threshold,
        )  # fmt: skip
        if self.policy.kind in SHALLOW_DEEP:
            defer = self.defer
            if defer is None:
                defer = self.policy.kind == "keep" or input_ids.device.type != "cpu"
            ShallowDeep(texts, self.policy, threshold, self.adaptive, self.observe, defer).write()
        else:
            Layerwise(texts, self.policy, self.classifier).write()
        self.trace = texts.trace
        pad = generation_config._pad_token_tensor
        sequences = texts.sequences(pad)
        return (
            _output(sequences, decoder.encoder_decoder)
            if generation_config.return_dict_in_generate
            else sequences
        )


def _check(
    input_ids: Tensor,
    criteria: StoppingCriteriaList,
    config: GenerationConfig,
    synced_gpus: bool,
    streamer: Any,
    model_kwargs: dict[str, Any],
) -> None:
    """Refuse what ``generate`` was asked for and this loop does not do."""
    for option, fix in UNSERVED.items():
        if getattr(config, option):
            raise UserError(f"{option}=True with early-exit decoding: {fix}")
    if config.num_beams > 1:
        raise UserError(
            f"num_beams {config.num_beams}: early-exit decoding writes one text per row; set num_beams=1"
        )
    if streamer is not None:
        raise UserError("a streamer gets tokens one by one, and these may be taken back; leave it out")
    if synced_gpus:
        raise UserError("synced_gpus: early-exit decoding runs on one device; leave it out")
    if model_kwargs.get("inputs_embeds") is not None:
        raise UserError("inputs_embeds: early-exit decoding begins with token ids; give input_ids")
    if model_kwargs.get("token_type_ids") is not None:
        raise UserError("token_type_ids: early-exit decoding embeds token ids alone; leave them out")
    prompt_mask = model_kwargs.get("decoder_attention_mask")
    if prompt_mask is not None and not bool(prompt_mask.all()):
        raise UserError(
            "decoder_attention_mask: early-exit decoding takes no padding in an encoder-decoder's prompt; give rows whose "
            "decoder_input_ids are of one length"
        )
    past = model_kwargs.get("past_key_values")
    if past is not None and past.get_seq_length() > 0:
        raise UserError(
            "past_key_values: early-exit decoding fills a cache of its own; give the whole prompt"
        )
    if criteria.max_length is None:
        raise UserError("early-exit decoding needs an end; give max_new_tokens or max_length")
    if len(input_ids) > 1 and config._pad_token_tensor is None and len(criteria) > 1:
        raise UserError(
            f"{len(input_ids)} rows that may end at different lengths need a pad token to fill them up; give pad_token_id"
        )


def _padding(encoder_decoder: bool, input_ids: Tensor, mask_BC: Tensor | None) -> list[int]:
    """Return the columns of padding on the left of each row."""
    if encoder_decoder or mask_BC is None:
        return [0] * len(input_ids)
    real_BC = mask_BC.bool().tolist()
    padding = [row.index(True) if True in row else len(row) for row in real_BC]
    for row, (columns, real) in enumerate(zip(padding, real_BC, strict=True)):
        if not all(real[columns:]) or columns == len(real):
            raise UserError(
                f"row {row} of attention_mask is padded elsewhere than on the left, or all of it is padding; set "
                "tokenizer.padding_side = 'left'"
            )
    return padding


def _output(sequences: Tensor, encoder_decoder: bool) -> ModelOutput:
    from transformers.generation import GenerateDecoderOnlyOutput, GenerateEncoderDecoderOutput

    return (GenerateEncoderDecoderOutput if encoder_decoder else GenerateDecoderOnlyOutput)(
        sequences=sequences
    )


__all__ = ["EarlyExitDecoding"]
