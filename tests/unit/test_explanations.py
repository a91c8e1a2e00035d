"""Explanations of tiny models: what survives, what hangs on it, and what is said of it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_inference.attribution.rationale_scores import BINS, as_many, score_kept
from adaptive_inference.attribution.survival import Survival, survivals
from adaptive_inference.errors import UserError
from adaptive_inference.evaluation.explained import ALL_LAYERS, BASELINES, CONTRIBUTIONS
from adaptive_inference.evaluation.explanations import explain
from adaptive_inference.evaluation.faithfulness import Faithfulness, word_tokens
from adaptive_inference.exits import MultiModel, build_model
from adaptive_inference.exits.outputs import collect_outputs
from adaptive_inference.settings.inputs import Backbone
from adaptive_inference.tasks.encode import encode
from adaptive_inference.tasks.rationale import token_labels
from adaptive_inference.tasks.schema import Example, Schema, Split

SCHEMA = Schema("tiny", "classification", ("bad", "good"), "accuracy", 24)
WORDS = ("good", "movie", "the", "story", "was", "dull", "but", "fine", "actor")
TEXTS = ("the movie was good", "a very dull and boring story", "fine", "it was not a great film at all")
SPLIT = Split(
    Example(id=row, texts=(text,), label=row % 2, rationale=(len(text.split()) - 1,))
    for row, text in enumerate(TEXTS)
)
LAYERS = 4


def build(schema=SCHEMA, reduces=False, eta=0.9, family="bert", exits=(2, LAYERS)):
    backbone = Backbone(weights=f"random:{family}", exits=list(exits), read="mean")
    model = build_model(backbone, schema, 0, reduces=reduces).eval()
    if reduces:
        model.reduction.eta.data.fill_(eta)
        for predictor in model.reduction.predictors:  # scores far from uniform
            predictor.outer.weight.data *= 200
    return model


FULL, REDUCED = build(), build(reduces=True)
ASKED = {"rows": 3, "integrated_gradients_rows": 2, "pictures": 2, "batch_size": 2, "resamples": 50}


def features_of(split=SPLIT, model=REDUCED):
    return encode(split, model.tokenizer, model.schema.max_length)


def without_rationales(split=SPLIT):
    return Split(Example(item.id, item.texts, item.label) for item in split)


# ---- what survives ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "mpnet"])
@settings(deadline=None, max_examples=10)
@given(
    words=st.lists(st.lists(st.sampled_from(WORDS), max_size=9), min_size=1, max_size=5),
    eta=st.floats(0.3, 1.0),
)
def test_survival_is_what_the_forward_ran_on(family, words, eta):
    model = build(reduces=True, eta=eta, family=family)
    split = Split(Example(row, (" ".join(item),), 0) for row, item in enumerate(words))
    features = features_of(split, model)
    found = survivals(model, features, batch_size=3)
    for feature, item in zip(features, found, strict=True):
        ids = torch.tensor([feature["input_ids"]])
        with torch.inference_mode():
            alone = model.start({"input_ids": ids})
            alone.answers()
        assert item.kept_LN.sum(1).tolist() == [int(count[0]) for count in alone.survivors]
        entered = np.vstack([np.ones_like(item.kept_LN[:1]), item.kept_LN[:-1]])
        assert (item.kept_LN <= entered).all()
        assert item.kept_LN[:, 0].all()
        assert item.scores_LN.sum(1) == pytest.approx(1.0, abs=1e-5)
        assert (item.scores_LN[~entered] == 0).all()
        # the rule itself, at the places of the row
        share = eta / entered.sum(1, keepdims=True)
        clear = entered & (np.abs(item.scores_LN - share) > 1e-6)
        clear[:, 0] = False
        assert (item.kept_LN == (item.scores_LN >= share))[clear].all()


def test_what_went_before_ranks_last_and_counts_nothing_in_the_mean():
    found = Survival(
        np.array([[0.5, 0.3, 0.2], [0.6, 0.4, 0.0]], np.float32),
        np.array([[True, True, False], [True, False, False]]),
    )
    assert found.ranked_LN.tolist() == [pytest.approx([0.5, 0.3, 0.2]), pytest.approx([0.6, 0.4, -np.inf])]
    assert found.mean_N == pytest.approx([0.55, 0.35, 0.1])


def test_a_model_that_removes_nothing_has_no_survivals():
    with pytest.raises(UserError, match="removes no tokens"):
        survivals(FULL, features_of(), 2)


# ---- what the answer hangs on ----------------------------------------------------------------------------------------


def test_faithfulness_is_the_fall_of_the_predicted_probability_worked_by_hand():
    features, scores = features_of(), [np.arange(len(item["input_ids"])) for item in features_of()]
    falls = []
    for feature, of_row in zip(features, scores, strict=True):
        words = list(range(1, len(of_row) - 1))
        full = probabilities(feature["input_ids"])
        for share in BINS:
            count = int(np.ceil(round(share * len(words), 9)))
            best = sorted(words, key=lambda place: -of_row[place])[:count]
            left = [token for place, token in enumerate(feature["input_ids"]) if place not in best]
            alone = [
                token
                for place, token in enumerate(feature["input_ids"])
                if place in best or place not in words
            ]
            falls.append([full.max() - probabilities(item)[full.argmax()] for item in (left, alone)])
    assert Faithfulness(FULL, features, 2).of(scores) == pytest.approx(np.mean(falls, 0), abs=1e-5)


def probabilities(ids):
    with torch.inference_mode():
        logits = FULL(torch.tensor([ids])).logits[0, -1]
    return logits.softmax(-1).numpy()


def test_a_row_of_special_tokens_only_is_left_as_it_is():
    features = features_of(Split([Example(0, ("",), 0)]))
    assert [words.tolist() for words in word_tokens(FULL, features)] == [[False, False]]
    assert Faithfulness(FULL, features, 2).of([np.array([1.0, 2.0])]) == pytest.approx((0.0, 0.0))


def test_special_tokens_are_never_taken_out_and_their_scores_say_nothing():
    features = features_of()
    faithful = Faithfulness(FULL, features, 2)
    scores = [np.arange(len(item["input_ids"]), dtype=float) for item in features]
    raised = [
        np.where(np.isin(np.arange(len(of_row)), (0, len(of_row) - 1)), 99, of_row) for of_row in scores
    ]
    assert faithful.of(scores) == faithful.of(raised)


# ---- all of one model ------------------------------------------------------------------------------------------------


def test_the_full_model_is_explained_by_every_kind():
    found = explain(FULL, FULL, SPLIT, **ASKED)
    by_kind = {item.kind: item for item in found.measured}
    assert {kind: item.rows for kind, item in by_kind.items()} == {
        "saliency": 3, "integrated_gradients": 2, "attention": 3, "attention_rollout": 3,
    }  # fmt: skip
    assert all(item.rationales == item.rows for item in found.measured)
    assert all(0 < item.average_precision <= 1 for item in found.measured)
    assert all(
        item.comprehensiveness is not None and item.false_positive_rate is None for item in found.measured
    )
    assert [len(picture.lines) for picture in found.pictures] == [4, 4]
    assert found.metrics["attention_average_precision"] == by_kind["attention"].average_precision


def test_no_rows_of_integrated_gradients_leave_the_kind_out():
    found = explain(FULL, FULL, SPLIT, **ASKED | {"integrated_gradients_rows": 0})
    assert [item.kind for item in found.measured] == ["saliency", "attention", "attention_rollout"]


def test_a_model_that_reduces_is_explained_layer_by_layer_beside_as_many_of_the_others():
    found = explain(REDUCED, FULL, SPLIT, **ASKED)
    layers = [*map(str, range(1, LAYERS + 1)), ALL_LAYERS]
    assert [(item.kind, item.layer) for item in found.measured] == [
        (kind, layer) for kind in (CONTRIBUTIONS, *BASELINES) for layer in layers
    ]
    at = {(item.kind, item.layer): item for item in found.measured}
    labels, split = token_labels(SPLIT, REDUCED.tokenizer, 24)[:3], Split(SPLIT[:3])
    kept = [item.kept_LN for item in survivals(REDUCED, features_of(split), 2)]
    for kind in BASELINES:
        for layer in layers:
            ours, theirs = at[CONTRIBUTIONS, layer], at[kind, layer]
            assert theirs.fpr_difference == pytest.approx(
                ours.false_positive_rate - theirs.false_positive_rate
            )
            assert theirs.fpr_low <= theirs.fpr_difference <= theirs.fpr_high
    assert at[CONTRIBUTIONS, ALL_LAYERS].recall == pytest.approx(
        np.mean([at[CONTRIBUTIONS, layer].recall for layer in layers[:-1]])
    )
    attended = explain(FULL, FULL, SPLIT, **ASKED)
    assert at["attention", ALL_LAYERS].average_precision == attended.metrics["attention_average_precision"]
    # a score that is what was kept gives the figures of what was kept
    own = score_kept(as_many([item.astype(float) for item in kept], kept, labels), labels).macro["precision"]
    assert [at[CONTRIBUTIONS, layer].precision for layer in layers[:-1]] == pytest.approx(own)


def test_where_nothing_is_removed_every_kind_keeps_all():
    found = explain(build(reduces=True, eta=0.0), FULL, SPLIT, **ASKED)
    kept = [item for item in found.measured if item.false_positive_rate is not None]
    assert kept
    assert {item.false_positive_rate for item in kept} == {1.0}
    assert {item.recall for item in kept} == {1.0}
    assert {item.fpr_difference for item in kept} == {None, 0.0}


def test_a_task_without_rationales_has_faithfulness_alone():
    for model in (FULL, REDUCED):
        found = explain(model, FULL, without_rationales(), **ASKED)
        assert {item.rationales for item in found.measured} == {0}
        assert {item.average_precision for item in found.measured} == {None}
        assert {item.false_positive_rate for item in found.measured} == {None}
        assert all(item.comprehensiveness is not None for item in found.measured)
        assert found.pictures[0].rationale_N is None


def test_rows_without_a_rationale_are_passed_over():
    split = Split([*without_rationales(), Example(9, ("good",), 1, rationale=()), *SPLIT[:1]])
    found = explain(FULL, FULL, split, **ASKED)
    assert {item.rows for item in found.measured} == {1}
    assert [picture.id for picture in found.pictures] == [0]


def test_rationales_that_are_cut_off_are_refused():
    split = Split([Example(0, ("the movie was very very good",), 1, rationale=(5,))])
    short = build(Schema("tiny", "classification", ("bad", "good"), "accuracy", 4))
    with pytest.raises(UserError, match="max_length"):
        explain(short, short, split, **ASKED)


def test_an_example_of_special_tokens_only_is_explained():
    for model in (FULL, REDUCED):
        found = explain(model, FULL, Split([Example(0, ("",), 0)]), **ASKED)
        assert {item.comprehensiveness for item in found.measured} == {0.0}
        assert found.pictures[0].tokens == ("[CLS]", "[SEP]")


def test_a_score_has_no_faithfulness():
    model = build(Schema("tiny", "regression", None, "pearson_spearman", 24))
    split = Split(Example(item.id, item.texts, 0.5, rationale=item.rationale) for item in SPLIT)
    found = explain(model, model, split, **ASKED)
    assert {item.comprehensiveness for item in found.measured} == {None}
    assert all(item.average_precision is not None for item in found.measured)
    assert found.pictures[0].label == "0.5"


def test_a_cascade_is_refused():
    with pytest.raises(UserError, match="cannot be explained"):
        explain(MultiModel([build(exits=(LAYERS,))]), FULL, SPLIT, **ASKED)


def test_pictures_name_tokens_label_and_what_the_model_answers():
    found = explain(REDUCED, FULL, SPLIT, **ASKED)
    picture = found.pictures[0]
    assert picture.tokens == ("[CLS]", "the", "movie", "was", "good", "[SEP]")
    assert picture.rationale_N.tolist() == [False, False, False, False, True, False]
    assert picture.label == "bad"
    answer = collect_outputs(REDUCED, features_of(), 2).logits[0, -1].argmax()
    assert picture.prediction == SCHEMA.labels[answer]
    assert [line.name for line in picture.lines] == [f"layer {layer}" for layer in range(1, LAYERS + 1)]
