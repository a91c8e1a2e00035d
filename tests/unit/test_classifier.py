"""CALM's classifier: its labels, its loss, and what it learns of a frozen decoder."""

import pytest
import torch
from tiny_decoders import BLOCKS, FAMILIES, WIDTH, collate, tiny_decoder, tiny_features
from torch.nn.functional import binary_cross_entropy_with_logits

from adaptive_inference.errors import UserError
from adaptive_inference.generation.classifier import (
    CLASSIFIER_FILE,
    AgreementClassifier,
    agreement,
    fit_classifier,
    load_classifier,
    save_classifier,
)
from adaptive_inference.generation.layer_states import LayerStates
from adaptive_inference.settings.protocol import Runtime

CPU = Runtime(device="cpu")


def run_fit(model, family, kind="linear", train=24, **more):
    settings = {"epochs": 3, "batch_size": 8, "learning_rate": 1e-2} | more
    rows = tiny_features(family, train), tiny_features(family, 12, seed=1)
    return fit_classifier(model, kind, *rows, collate, CPU, 0, **settings)


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_say_whether_a_block_agrees_with_the_last_one(family):
    """By stock outputs: block k's own logits against the model's."""
    model, batch = tiny_decoder(family).eval(), collate(tiny_features(family))
    answers = LayerStates(model)
    states, labels = answers(batch, range(1, BLOCKS + 1))
    stock = model(**{key: value for key, value in batch.items() if key != "ids"}).logits
    chosen = {layer: answers.logits(state).argmax(-1) for layer, state in states.items()}
    # Targets end every row, so the last positions with a label predict what stock logits do.
    shifted = (
        batch["labels"]
        if "t5" in family
        else torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=-100)
    )
    assert torch.equal(chosen[BLOCKS], stock.argmax(-1)[shifted != -100])
    seen = list(agreement(answers, batch))
    assert [layer for layer, *_ in seen] == [1, 2, 3]
    for layer, h, agrees in seen:
        assert h.shape == (len(labels), WIDTH)
        assert torch.equal(agrees.bool(), chosen[layer] == chosen[BLOCKS])


def test_labels_compare_with_block_l_and_not_with_the_one_before():
    """The reference's list ended with block L - 1, whose labels were then all 1 (free.md section 5, item 2)."""
    model = tiny_decoder("t5").eval()
    *_, (layer, _, agrees) = agreement(LayerStates(model), collate(tiny_features("t5")))
    assert layer == BLOCKS - 1
    assert 0 < agrees.mean() < 1


def test_sizes():
    assert sum(item.numel() for item in AgreementClassifier(WIDTH).parameters()) == WIDTH + 1
    assert (
        sum(item.numel() for item in AgreementClassifier(WIDTH, "mlp").parameters())
        == WIDTH * (WIDTH + 1) + WIDTH + 1
    )


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_confidence_is_a_probability_that_ignores_the_streams_scale(kind):
    draw = torch.Generator().manual_seed(0)
    state, classifier = torch.randn(3, 7, WIDTH, generator=draw), AgreementClassifier(WIDTH, kind)
    confidence = classifier.confidence(state)
    assert confidence.shape == (3, 7)
    assert ((confidence > 0) & (confidence < 1)).all()
    torch.testing.assert_close(classifier.confidence(100 * state), confidence)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("family", ["t5", "opt"])
def test_it_learns_more_than_the_share_of_agreeing_tokens_and_the_decoder_nothing(family, kind):
    model = tiny_decoder(family)
    before = {name: item.clone() for name, item in model.state_dict().items()}
    found = run_fit(model, family, kind, train=96, epochs=8)
    assert found.development_loss < found.constant_loss
    assert len(found.shares) == BLOCKS - 1
    assert all(torch.equal(item, before[name]) for name, item in model.state_dict().items())
    assert not found.classifier.training
    assert all(item.grad is None for item in model.parameters())


def test_development_figures_are_means_over_tokens_then_blocks():
    model = tiny_decoder("gpt2")
    found = run_fit(model, "gpt2", batch_size=5, epochs=1)
    seen = list(agreement(LayerStates(model), collate(tiny_features("gpt2", 12, seed=1))))
    with torch.no_grad():
        losses = [binary_cross_entropy_with_logits(found.classifier(h), agrees) for _, h, agrees in seen]
    assert found.development_loss == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)
    assert found.shares == pytest.approx([float(agrees.mean()) for *_, agrees in seen])


def test_a_seed_gives_the_same_classifier_and_leaves_the_generator_alone():
    model, state = tiny_decoder("llama"), torch.random.get_rng_state()
    first, second = (run_fit(model, "llama", epochs=1).classifier.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_saved_classifier_is_the_same(kind, tmp_path):
    assert load_classifier(tmp_path) is None
    classifier, state = AgreementClassifier(WIDTH, kind), torch.randn(5, WIDTH)
    save_classifier(classifier, tmp_path)
    assert torch.equal(load_classifier(tmp_path).confidence(state), classifier.confidence(state))


def test_files_of_something_else_are_refused(tmp_path):
    (tmp_path / CLASSIFIER_FILE).write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"classifier\.safetensors is no classifier .*train it again"):
        load_classifier(tmp_path)


def test_a_decoder_of_one_block_and_empty_splits_are_refused():
    with pytest.raises(UserError, match="a decoder of 1 block cannot be left early"):
        run_fit(tiny_decoder("llama", num_hidden_layers=1), "llama")
    with pytest.raises(UserError, match="the development split is empty"):
        fit_classifier(tiny_decoder("llama"), "linear", tiny_features("llama"), [], collate, CPU, 0)
