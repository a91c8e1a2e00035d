"""What early-exit decoding refuses inside ``generate``, and that a failure leaves the model as it was; confidences."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessor

from adaptive_inference.decoders._tiny import POSITIONS, tiny_decoder
from adaptive_inference.decoding import AdaptiveThreshold, DecodingPolicy, EarlyExitDecoding
from adaptive_inference.decoding.confidence import AgreementClassifier, saturation, softmax_gap
from adaptive_inference.errors import UserError

KEEP = DecodingPolicy("keep", exit_layer=2)
IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


def write(model, policy=KEEP, ids=IDS, **options):
    decoding = EarlyExitDecoding(policy)
    return model.generate(input_ids=ids, custom_generate=decoding, **({"max_new_tokens": 4} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_scores": True, "return_dict_in_generate": True}, "output_scores"),
        ({"output_hidden_states": True, "return_dict_in_generate": True}, "output_hidden_states"),
        ({"num_beams": 2}, "num_beams 2"),
        ({"attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])}, "padding_side"),
        ({"attention_mask": torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1]])}, "row 0 of attention_mask"),
        ({"max_new_tokens": POSITIONS}, "positions"),
        ({"policy": DecodingPolicy("keep", exit_layer=4)}, "exit_layer 4"),
        ({"policy": DecodingPolicy("verify", exit_layer=2), "do_sample": True}, "do_sample"),
        ({"token_type_ids": torch.zeros(2, 4, dtype=torch.long)}, "token_type_ids"),
    ],
)
def test_what_is_not_served_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        write(tiny_decoder("gpt2"), **options)


def test_an_encoder_decoders_prompt_has_no_padding():
    model, prompt = tiny_decoder("t5"), torch.tensor([[0, 0, 5], [0, 6, 7]])
    for mask, fits in ([[1, 1, 1], [1, 1, 1]], True), ([[0, 1, 1], [1, 1, 1]], False):
        given = {"decoder_input_ids": prompt, "decoder_attention_mask": torch.tensor(mask)}
        if fits:
            assert write(model, **given).shape[0] == 2
        else:
            with pytest.raises(UserError, match="decoder_attention_mask"):
                write(model, **given)


def test_drawn_tokens_say_nothing_of_agreement():
    model = tiny_decoder("llama")
    for options in {"observe": True}, {"adaptive": AdaptiveThreshold()}:
        with pytest.raises(UserError, match="do_sample=True: two tokens that are drawn"):
            model.generate(
                IDS, custom_generate=EarlyExitDecoding(KEEP, **options), do_sample=True, max_new_tokens=4
            )
    decoding = EarlyExitDecoding(KEEP)  # at a threshold of 1 all blocks see every token
    model.generate(IDS, custom_generate=decoding, do_sample=True, max_new_tokens=4)
    assert {agreed for row in decoding.trace.rows for agreed in row.agreed} == {None}


def test_rows_of_different_lengths_need_a_pad_token():
    model = tiny_decoder("llama")
    model.generation_config.pad_token_id = model.generation_config.eos_token_id = None
    assert write(model).shape == (2, 8)
    with pytest.raises(UserError, match="pad_token_id"):
        write(model, stopping_criteria=[lambda ids, scores, **_: ids[:, -1] == 3])


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(UserError, match=r"model\.eval"):
        write(tiny_decoder("llama").train())


def test_estimates_and_classifiers_go_with_their_policies():
    with pytest.raises(UserError, match="only 'keep'"):
        EarlyExitDecoding(DecodingPolicy("verify", exit_layer=2), AdaptiveThreshold())
    with pytest.raises(UserError, match="give a classifier"):
        EarlyExitDecoding(DecodingPolicy("calm", confidence="classifier"))
    with pytest.raises(UserError, match="give a classifier"):
        EarlyExitDecoding(KEEP, classifier=AgreementClassifier(8))


def test_an_output_object_is_given_where_it_is_asked_for():
    model = tiny_decoder("llama")
    assert write(model, return_dict_in_generate=True).sequences.tolist() == write(model).tolist()


class _Fails(LogitsProcessor):
    def __call__(self, input_ids, scores):
        if input_ids.shape[1] > 6:
            raise RuntimeError("in the middle")
        return scores


@pytest.mark.parametrize("family", ["t5", "gpt2", "opt", "llama"])
def test_an_error_in_the_middle_leaves_the_model_as_it_was(family):
    model = tiny_decoder(family)
    before = model.config.to_dict(), model.generation_config.to_dict()
    expected = write(model, max_new_tokens=10)
    decoding = EarlyExitDecoding(KEEP)
    options = {"input_ids": IDS, "max_new_tokens": 10, "min_new_tokens": 10}
    model.generate(**options, custom_generate=decoding)
    assert decoding.trace.tokens == 20
    with pytest.raises(RuntimeError, match="in the middle"):
        model.generate(**options, custom_generate=decoding, logits_processor=[_Fails()])
    assert decoding.trace is None
    assert (model.config.to_dict(), model.generation_config.to_dict()) == before
    assert write(model, max_new_tokens=10).tolist() == expected.tolist()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-60, 60, width=32), min_size=2, max_size=20), st.floats(-30, 30))
def test_the_gap_is_that_of_the_softmax(logits, shift):
    """Property 9: in [0, 1], the same whatever is added to all logits, and in low precision no more than 1."""
    logits_V = torch.tensor(logits, dtype=torch.float64)
    top = logits_V.softmax(-1).sort().values
    expected = (top[-1] - top[-2]).item()
    assert softmax_gap(logits_V).item() == pytest.approx(expected, abs=1e-12)
    assert softmax_gap(logits_V + shift).item() == pytest.approx(expected, abs=1e-9)
    assert softmax_gap(logits_V.float()).item() == pytest.approx(expected, abs=1e-5)
    for values in (logits_V, logits_V.float(), logits_V.bfloat16()):
        assert 0.0 <= softmax_gap(values).item() <= 1.0


def test_the_gap_depends_on_the_scale_of_the_output():
    """Property 9: a T5 that scales its output is less sure of the same token."""
    gaps = []
    for scaled in (True, False):
        model = tiny_decoder("t5", scale_decoder_outputs=scaled)
        decoding = EarlyExitDecoding(KEEP)
        model.generate(input_ids=IDS, max_new_tokens=2, min_new_tokens=2, custom_generate=decoding)
        gaps.append([row.confidence[0] for row in decoding.trace.rows])
    assert all(scaled < plain for scaled, plain in zip(*gaps, strict=True))


def test_saturation_is_a_cosine_and_no_more_than_1():
    hidden = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    assert saturation(hidden, torch.tensor([[4.0, 3.0], [0.0, 2.0]])).tolist() == pytest.approx([0.96, 0.0])
    states = torch.randn(500, 7)
    assert saturation(states, states).max() <= 1.0
