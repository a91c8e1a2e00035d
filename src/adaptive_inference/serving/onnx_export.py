"""From a trained model to graphs for ONNX Runtime, one for each segment between two cuts."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto

from adaptive_inference.backbones.packaged import WEIGHT_FILE
from adaptive_inference.cost.flops import FlopCount
from adaptive_inference.engine.onnx_graphs import (
    HIDDEN,
    IDS,
    MASK,
    READ,
    ROWS,
    TOKENS,
    TYPES,
)
from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules import load_rule
from adaptive_inference.exits.deployment import (
    WEIGHTS_KEY,
    Deployment,
    Quantisation,
    Tokens,
    digest_of,
    segment_file,
)
from adaptive_inference.exits.layout import CALIBRATION_FILE, MULTI_EXIT, open_model
from adaptive_inference.exits.model import MultiExitModel
from adaptive_inference.exits.segments import Segment, eager_attention, embedded, flat
from adaptive_inference.files import write_json
from adaptive_inference.machine import has_vnni
from adaptive_inference.serving.onnx_model import FlopTable
from adaptive_inference.serving.setting import choose_setting
from adaptive_inference.tasks.encode import encode_texts
from adaptive_inference.tasks.fast_tokenizer import TOKENIZER_FILE, FastTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Columns of a tokenizer that graphs read, in order.
_TOKEN_NAMES = (IDS, MASK, TYPES)
#: Texts by which a tokenizer alone is compared with transformers'.
_SAMPLE = [
    "",
    "A plain sentence.",
    "  It's naïve, isn't it?\tYES\n",
    "漢字 and 12,345.67 words that go on and on and on",
]
#: Version of the operators: the first with layer normalisation as one.
_OPSET = 17
#: Rows and tokens of the two batches that segments are tried on: a size that differs between them is free.
_FORMS = ((2, 3), (4, 6))
_FREE: dict[tuple[int, ...], str] = {(2, 4): ROWS, (3, 6): TOKENS}
#: Classes up to which a classifier stays in floating point: rounding would take longer than multiplying.
_FEW_CLASSES = 64
#: Products with weights, before quantisation and after it.
_PRODUCTS, _QUANTISED = ("MatMul", "Gemm"), "MatMulInteger"


def write_deployment(run: Path, name: str, out: Path, everywhere: bool = False) -> None:
    """Write the graphs of a trained model, and what predicting with them needs besides a model folder's own files.

    Parameters
    ----------
    run
        A method's run folder, or an exported one with weights.
    name
        ``onnx_fp32`` or ``onnx_int8``.
    out
        A folder, made here.
    everywhere
        Cut at every exit, with all that any rule reads, so that every rule can be calibrated on the graphs; else where the
        recommended setting can decide.

    Raises
    ------
    UserError
        The model is of a kind that graphs are not made of, or its tokenizer needs transformers.
    """
    saved = open_model(run)
    if saved.config["kind"] != MULTI_EXIT:
        raise UserError(
            f"{saved.home} holds a cascade of models, which {name} does not run: export one of its members' folders, or "
            "the cascade as torch"
        )
    if saved.config.get("token_reduction"):
        raise UserError(
            f"{saved.home} removes tokens on the way, so that lengths depend on values, which {name} does not run; export "
            "it as torch"
        )
    model = MultiExitModel.from_pretrained(run)
    setting = choose_setting(saved.calibration, len(model.exits), model.schema, None, None)
    rule = load_rule(setting.rule)
    count = len(model.exits)
    deciding = range(count) if everywhere else rule.decides(setting.threshold, count)
    cuts, exits = cut_layers(model.exits, deciding)
    deployment = Deployment(
        deployment=name,
        weights=digest_of(saved.home / WEIGHT_FILE),
        rule=setting.rule,
        threshold=setting.threshold,
        cuts=cuts,
        exits=exits,
        certainty=(everywhere or rule.needs_certainty) and model.has_certainty,
        tokens=_tokens(model.tokenizer, saved.home),
        quantisation=None if name == "onnx_fp32" else Quantisation(reduce_range=not has_vnni()),
    )
    out.mkdir(parents=True, exist_ok=True)
    write_segments(model, deployment, out)
    lengths = np.arange(1, model.schema.max_length + 1)
    flops = FlopCount(model, deployment.certainty, model.schema.max_length)
    FlopTable(flops.by_exit(lengths)).save(out)
    write_json(out / CALIBRATION_FILE, {**saved.calibration, WEIGHTS_KEY: deployment.weights})
    deployment.save(out)


def _tokens(tokenizer: PreTrainedTokenizerBase, home: Path) -> Tokens:
    """Return how texts become tokens without transformers.

    Raises
    ------
    UserError
        They become others than with it.
    """
    fix = "such a model is exported as torch alone"
    if not (home / TOKENIZER_FILE).is_file():
        raise UserError(f"{home} has no {TOKENIZER_FILE}, so that its tokenizer needs transformers; {fix}")
    told = Tokens(
        names=[name for name in _TOKEN_NAMES if name in tokenizer.model_input_names],
        pad=tokenizer.pad_token_id or 0,
        cut=tokenizer.truncation_side,
    )
    alone = FastTokenizer(home / TOKENIZER_FILE, told.names, told.pad, told.cut)
    for columns in ([_SAMPLE], [_SAMPLE, _SAMPLE[::-1]]):
        for limit in (None, 12):
            pairs = list(zip(*columns, strict=True))
            if encode_texts(pairs, alone, limit) != encode_texts(pairs, tokenizer, limit):
                raise UserError(f"the tokenizer of {home} does more than its {TOKENIZER_FILE} says; {fix}")
    return told


def write_segments(model: MultiExitModel, deployment: Deployment, folder: Path) -> None:
    """Write the graphs of a deployment, the same bytes for the same weights.

    Parameters
    ----------
    model
        In eval mode, on the CPU, without token reduction.
    deployment
        What to write.
    folder
        Is there.
    """
    for place, (segment, examples) in enumerate(_segments(model, deployment)):
        graph = _traced(segment, examples)
        _drop_unread_inputs(graph)
        if deployment.quantisation is not None:
            graph = _quantised(graph, deployment.quantisation, model.schema.outputs)
        onnx.helper.set_model_props(graph, {WEIGHTS_KEY: deployment.weights})
        onnx.checker.check_model(graph)
        (folder / segment_file(place)).write_bytes(graph.SerializeToString(deterministic=True))


def _segments(
    model: MultiExitModel, deployment: Deployment
) -> Iterator[tuple[Segment, list[tuple[torch.Tensor, ...]]]]:
    """Yield the segments, each with a batch of each of `_FORMS`."""
    batches = [_batch(model, deployment, *form) for form in _FORMS]
    shared = [name for name in batches[0] if "." in name]
    first = 0
    for exits in deployment.exits:
        names = [HIDDEN, MASK, *shared] if first else deployment.tokens.names
        segment = Segment(model, range(first, first + len(exits)), names, shared, deployment.certainty)
        yield segment.eval(), [tuple(batch[name] for name in names) for batch in batches]
        first += len(exits)


def _batch(model: MultiExitModel, deployment: Deployment, rows: int, tokens: int) -> dict[str, torch.Tensor]:
    """Return all that a segment may read, by name, of rows of which the last is padded."""
    columns = {name: torch.zeros(rows, tokens, dtype=torch.long) for name in deployment.tokens.names}
    columns[MASK] = torch.ones(rows, tokens, dtype=torch.long)
    columns[MASK][-1, tokens // 2 :] = 0
    with eager_attention(model), torch.inference_mode():
        hidden_BNH, context = embedded(model, columns)
    return {**columns, HIDDEN: hidden_BNH, **flat(context)}


def _traced(segment: Segment, examples: list[tuple[torch.Tensor, ...]]) -> ModelProto:
    """Return the graph of a segment, for rows and tokens of any number."""
    names = [name + READ if name == HIDDEN else name for name in segment.names]
    with torch.inference_mode(), eager_attention(segment.model):
        made = [segment(*example) for example in examples]
    shapes = {
        name: [_FREE.get(sizes, sizes[0]) for sizes in zip(*(item.shape for item in items), strict=True)]
        for name, items in zip(
            (*names, *segment.outputs), (*zip(*examples, strict=True), *zip(*made, strict=True)), strict=True
        )
    }
    free = {
        name: {axis: size for axis, size in enumerate(shape) if isinstance(size, str)}
        for name, shape in shapes.items()
    }
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # branches on the batch's form are taken as traced, which is what is meant
        logger.setLevel(logging.ERROR)
        try:
            with torch.inference_mode(), eager_attention(segment.model):
                torch.onnx.export(
                    segment,
                    examples[0],
                    f"{scratch}/graph.onnx",
                    dynamo=False,
                    opset_version=_OPSET,
                    custom_opsets={"com.microsoft": 1},
                    input_names=names,
                    output_names=segment.outputs,
                    dynamic_axes=free,
                )
        finally:
            logger.setLevel(level)
        graph = onnx.load(f"{scratch}/graph.onnx")
    for item in graph.graph.output:  # the tracer gives sizes that it cannot follow names of its own
        del item.type.tensor_type.shape.dim[:]
        for size in shapes[item.name]:
            key = "dim_param" if isinstance(size, str) else "dim_value"
            item.type.tensor_type.shape.dim.add(**{key: size})
    return graph


def _drop_unread_inputs(graph: ModelProto) -> None:
    read = {name for node in graph.graph.node for name in node.input}
    kept = [item for item in graph.graph.input if item.name in read]
    del graph.graph.input[:]
    graph.graph.input.extend(kept)


def _quantised(graph: ModelProto, settings: Quantisation, classes: int) -> ModelProto:
    """Return the graph with its products of weights in 8 bits, but those of classifiers of few classes.

    Raises
    ------
    RuntimeError
        A product with weights was left in floating point.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    sizes = {item.name: item.dims for item in graph.graph.initializer}
    few = {classes, 1} if classes <= _FEW_CLASSES else {1}  # of the certainty
    classifiers = [node.name for node in graph.graph.node if _columns(node, sizes) in few]
    classifiers += [f"{name}_MatMul" for name in classifiers]  # what the quantiser makes of a `Gemm` first
    add_pre_process_metadata(graph)  # else it advises steps on the root logger; shapes are told by the tracer
    with tempfile.TemporaryDirectory() as scratch:
        disabled = logging.root.manager.disable
        logging.disable(
            max(disabled, logging.INFO)
        )  # a line for each tensor that keeps its type, on the root logger
        try:
            quantize_dynamic(
                graph,
                Path(scratch, "quantised.onnx"),
                op_types_to_quantize=list(_PRODUCTS),
                nodes_to_exclude=classifiers,
                per_channel=settings.per_channel,
                reduce_range=settings.reduce_range,
                weight_type=QuantType.QInt8,
                extra_options={"DefaultTensorType": TensorProto.FLOAT},
            )
        finally:
            logging.disable(disabled)
        found = onnx.load(f"{scratch}/quantised.onnx")
    weights = {item.name for item in found.graph.initializer}
    left = [
        node.name
        for node in found.graph.node
        if node.op_type in _PRODUCTS
        and len(node.input) > 1
        and node.input[1] in weights
        and node.name not in classifiers
    ]
    if left or not any(node.op_type == _QUANTISED for node in found.graph.node):
        raise RuntimeError(f"quantisation skipped {left or 'all products'}")
    return found


def _columns(node: NodeProto, sizes: Mapping[str, Sequence[int]]) -> float:
    """Return how many outputs a product with weights has; infinity of any other node."""
    if node.op_type not in _PRODUCTS or node.input[1] not in sizes:
        return inf
    turned = any(item.name == "transB" and item.i for item in node.attribute)
    return sizes[node.input[1]][0 if turned else -1]


def cut_layers(exits: Sequence[int], deciding: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """Return the cuts of a model and the exits of each segment, by layers.

    Parameters
    ----------
    exits
        Layers before each exit.
    deciding
        Indices of the exits at which a row can leave before the last.
    """
    stops = sorted({*deciding, len(exits) - 1})
    segments = [list(exits[before + 1 : stop + 1]) for before, stop in pairwise([-1, *stops])]
    return [exits[stop] for stop in stops], segments
