"""Our layer-by-layer models against the stock classifiers of transformers, on tiny random configurations."""

import contextlib

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from adaptive_inference.backbones._tiny import tiny_config
from adaptive_inference.backbones.load import adapter, families, load_backbone, load_tokenizer
from adaptive_inference.engine import Engine
from adaptive_inference.exits.build import add_exits
from adaptive_inference.tasks.schema import Schema

LAYERS, CLASSES = 4, 3
SCHEMA = Schema("tiny", "classification", ("a", "b", "c"), "accuracy", 32)
#: Where the stock classifier keeps the dense layer of its head, and the classifier.
HEAD = {family: adapter(family).stock_head for family in families()}
#: Variations that change which code of the stock layers runs.
VARIANTS = [
    *[(family, {}) for family in HEAD],
    ("albert", {"num_hidden_groups": 2}),
    ("albert", {"inner_group_num": 2}),
    ("deberta", {"position_biased_input": True, "type_vocab_size": 2}),
    ("deberta", {"relative_attention": False}),
    ("deberta-v2", {"conv_kernel_size": 3, "conv_act": "gelu"}),
    ("mpnet", {"relative_attention_num_buckets": 40}),
    ("deberta-v2", {"share_att_key": False, "norm_rel_ebd": "none", "position_buckets": -1}),
]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def tolerance(logits):
    return 1e-5 * logits.abs().max().item()


def batch(family, rows=3, longest=11, padded=True):
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(5, 60, (rows, longest), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        for row in range(rows):
            stop = longest - 3 * row
            ids[row, stop:], mask[row, stop:] = 0, 0
    out = {"input_ids": ids, "attention_mask": mask}
    if family in ("bert", "albert"):
        out["token_type_ids"] = torch.randint(0, 2, ids.shape, generator=generator)
    return out


def stock_and_ours(family, changes, folder, exits=(LAYERS,), dropout=0.1):
    """Save a stock classifier, load its encoder with our loader and give it the stock head."""
    names = {"distilbert": ("dropout", "attention_dropout", "seq_classif_dropout")}
    rates = dict.fromkeys(names.get(family, ("hidden_dropout_prob", "attention_probs_dropout_prob")), dropout)
    if family == "albert":
        rates["classifier_dropout_prob"] = dropout
    torch.manual_seed(11)
    config = tiny_config(family, num_labels=CLASSES, **rates, **changes)
    stock = AutoModelForSequenceClassification.from_config(config).eval()
    stock.save_pretrained(folder)
    ours = add_exits(load_backbone(str(folder)), exits, SCHEMA, 0, pooler="shared", read="first").eval()
    dense, classifier = (stock.get_submodule(name) for name in HEAD[family])
    ours.pooler.load_state_dict(dense.state_dict())
    for head in ours.heads:
        head.classifier.load_state_dict(classifier.state_dict())
    return stock, ours


@pytest.mark.parametrize("family", families())
def test_a_family_that_says_so_runs_under_autocast(family):
    backbone, tokenizer = load_backbone(f"random:{family}"), load_tokenizer(f"random:{family}")
    batch = dict(tokenizer(["a good film", "bad"], padding=True, return_tensors="pt"))
    stopped = (
        contextlib.nullcontext() if backbone.autocasts else pytest.raises(RuntimeError, match="BFloat16")
    )
    with torch.autocast("cpu", dtype=torch.bfloat16), stopped:
        hidden, context = backbone.embed(batch)
        for layer in range(backbone.num_layers):
            hidden = backbone.run_layer(layer, hidden, context)
        assert hidden.isfinite().all()


@pytest.mark.parametrize("padded", [True, False], ids=["padded", "unpadded"])
@pytest.mark.parametrize(("family", "changes"), VARIANTS)
def test_an_exit_after_the_last_layer_equals_the_stock_classifier(family, changes, padded, tmp_path):
    stock, ours = stock_and_ours(family, changes, tmp_path)
    given = batch(family, padded=padded)
    with torch.no_grad():
        theirs, mine = stock(**given).logits, ours(**given).logits[:, 0]
    assert (theirs - mine).abs().max() <= tolerance(theirs)
    assert theirs.abs().max() > 1e-3
    assert (theirs[0] - theirs[1]).abs().max() > 1e-3, "rows must differ for the comparison to mean anything"


@pytest.mark.parametrize("family", sorted(HEAD))
def test_the_engine_that_never_exits_equals_the_stock_classifier(family, tmp_path):
    stock, ours = stock_and_ours(family, {}, tmp_path, exits=(1, 3, LAYERS))
    engine = Engine(ours, "confidence", 1.01)
    for length in (1, 2, 9):
        given = {name: item[:1, :length] for name, item in batch(family, padded=False).items()}
        decision = engine.run(given)
        with torch.no_grad():
            theirs = stock(**given).logits
        assert decision.exit_layers == [LAYERS]
        assert (theirs - torch.from_numpy(decision.logits)).abs().max() <= tolerance(theirs)


@pytest.mark.parametrize("family", sorted(HEAD))
def test_loss_and_gradients_equal_the_stock_classifier(family, tmp_path):
    stock, ours = stock_and_ours(family, {}, tmp_path, dropout=0.0)
    given, labels = batch(family), torch.tensor([0, 2, 1])
    stock(**given, labels=labels).loss.backward()
    loss = torch.nn.functional.cross_entropy(ours(**given).logits[:, 0], labels)
    loss.backward()
    theirs = {name.split(".", 1)[1]: item.grad for name, item in stock.named_parameters() if "." in name}
    compared = 0
    for name, item in ours.backbone.model.named_parameters():
        if item.grad is None:
            assert theirs[name] is None or not theirs[name].any()
            continue
        scale = theirs[name].abs().max().item()
        assert (item.grad - theirs[name]).abs().max() <= 1e-5 * scale + 1e-8, name
        compared += 1
    assert compared > 4 * LAYERS
    for module, name in ((ours.pooler, HEAD[family][0]), (ours.heads[0].classifier, HEAD[family][1])):
        other = stock.get_submodule(name).weight.grad
        assert (module.weight.grad - other).abs().max() <= 1e-5 * other.abs().max()


@pytest.mark.parametrize("family", sorted(HEAD))
def test_training_mode_draws_the_same_dropout_as_the_stock_classifier(family, tmp_path):
    stock, ours = stock_and_ours(family, {}, tmp_path, dropout=0.3)
    given = batch(family)
    stock.train(), ours.train()
    torch.manual_seed(3)
    theirs = stock(**given).logits
    torch.manual_seed(3)
    mine = ours(**given).logits[:, 0]
    assert (theirs - mine).abs().max() <= tolerance(theirs)


@pytest.mark.parametrize("kept", [1, 2, 3])
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        *[(family, {}) for family in sorted(HEAD)],
        ("albert", {"num_hidden_groups": 2}),
        ("deberta-v2", {"conv_kernel_size": 3}),
    ],
)
def test_the_first_layers_loaded_alone_equal_the_exits_of_the_whole(family, changes, kept, tmp_path):
    """Property 11 of sweet.md: exits cut at k equal the k-layer model of the same checkpoint."""
    _, whole = stock_and_ours(family, changes, tmp_path, exits=(1, 2, 3, LAYERS))
    short = add_exits(
        load_backbone(str(tmp_path), num_layers=kept), (kept,), SCHEMA, 0, pooler="shared"
    ).eval()
    short.pooler.load_state_dict(whole.pooler.state_dict())
    short.heads[0].classifier.load_state_dict(whole.heads[kept - 1].classifier.state_dict())
    given = batch(family)
    with torch.no_grad():
        theirs, mine = whole(**given).logits[:, kept - 1], short(**given).logits[:, 0]
    assert (theirs - mine).abs().max() <= tolerance(theirs)
    if not short.backbone.shares_layers:
        assert sum(p.numel() for p in short.backbone.parameters()) < sum(
            p.numel() for p in whole.backbone.parameters()
        )


@pytest.mark.parametrize(("family", "changes"), VARIANTS)
def test_every_hidden_state_equals_the_stock_encoders(family, changes, tmp_path):
    torch.manual_seed(2)
    stock = AutoModel.from_config(tiny_config(family, **changes)).eval()
    stock.save_pretrained(tmp_path)
    backbone, given = load_backbone(str(tmp_path)).eval(), batch(family)
    with torch.no_grad():
        theirs = stock(**given, output_hidden_states=True).hidden_states
        hidden, context = backbone.embed(given)
        for index in range(backbone.num_layers):
            hidden = backbone.run_layer(index, hidden, context)
            expected = theirs[
                (index + 1) * changes.get("inner_group_num", 1)
            ]  # stock records inner layers too
            assert (hidden - expected).abs().max() <= tolerance(expected)


@pytest.mark.parametrize("family", sorted(HEAD))
def test_a_selected_context_runs_the_selected_rows_alone(family):
    backbone, given = load_backbone(f"random:{family}").eval(), batch(family)
    rows = torch.tensor([2, 0])
    with torch.no_grad():
        hidden, context = backbone.embed(given)
        whole = backbone.run_layer(1, backbone.run_layer(0, hidden, context), context)[rows]
        hidden, context = backbone.run_layer(0, hidden, context)[rows], context.select(rows)
        assert (backbone.run_layer(1, hidden, context) - whole).abs().max() <= tolerance(whole)
    assert context.tokens_BN.shape == (2, 11)
