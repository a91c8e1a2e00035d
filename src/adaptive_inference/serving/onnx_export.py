"""From a trained model to graphs for ONNX Runtime, one for each segment between two cuts."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import torch
from onnx import ModelProto, TensorProto

from adaptive_inference.engine.onnx_runner import CERTAINTY, HIDDEN, IDS, LOGITS, MASK, READ, TYPES
from adaptive_inference.exits.deployment import WEIGHTS_KEY, Deployment, Quantisation, segment_file
from adaptive_inference.exits.segments import Segment, eager_attention, flat

if TYPE_CHECKING:
    from adaptive_inference.exits.model import MultiExitModel

#: Version of the operators: the first with layer normalisation as one.
_OPSET = 17
#: Products with weights, before quantisation and after it.
_PRODUCTS, _QUANTISED = ("MatMul", "Gemm"), "MatMulInteger"


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
    for place, (segment, example) in enumerate(_segments(model, deployment)):
        graph = _traced(segment, example)
        _drop_unread_inputs(graph)
        if deployment.quantisation is not None:
            graph = _quantised(graph, deployment.quantisation)
        onnx.helper.set_model_props(graph, {WEIGHTS_KEY: deployment.weights})
        onnx.checker.check_model(graph)
        (folder / segment_file(place)).write_bytes(graph.SerializeToString(deterministic=True))


def _segments(
    model: MultiExitModel, deployment: Deployment
) -> list[tuple[Segment, tuple[torch.Tensor, ...]]]:
    """Return the segments with what to trace them on: two rows, one of them padded."""
    columns = {IDS: torch.ones(2, 7, dtype=torch.long), MASK: torch.ones(2, 7, dtype=torch.long)}
    columns[MASK][1, 5:] = 0
    if TYPES in deployment.tokens.names:
        columns[TYPES] = torch.zeros(2, 7, dtype=torch.long)
    with eager_attention(model), torch.inference_mode():
        hidden_BNH, context = model.backbone.embed(columns)
    shared = flat(context)
    later = {HIDDEN: hidden_BNH, MASK: columns[MASK], **shared}
    found, first = [], 0
    for exits in deployment.exits:
        given = later if first else columns
        indices = range(first, first + len(exits))
        segment = Segment(model, indices, list(given), list(shared), deployment.certainty).eval()
        found.append((segment, tuple(given.values())))
        first += len(exits)
    return found


def _traced(segment: Segment, example: tuple[torch.Tensor, ...]) -> ModelProto:
    """Return the graph of a segment, for rows and tokens of any number."""
    names = [name + READ if name == HIDDEN else name for name in segment.names]
    axes = {name: _axes(name, item) for name, item in zip(names, example, strict=True)}
    with torch.inference_mode(), eager_attention(segment.model):
        for name, item in zip(segment.outputs, segment(*example), strict=True):
            axes[name] = _axes(name, item)
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
                    example,
                    f"{scratch}/graph.onnx",
                    dynamo=False,
                    opset_version=_OPSET,
                    input_names=names,
                    output_names=segment.outputs,
                    dynamic_axes=axes,
                )
        finally:
            logger.setLevel(level)
        return onnx.load(f"{scratch}/graph.onnx")


def _axes(name: str, item: torch.Tensor) -> dict[int, str]:
    """Return which axes of an input or output differ from batch to batch."""
    if name in (LOGITS, CERTAINTY):
        return {0: "rows"}
    if name.startswith("shared."):
        return {}
    found = {axis: "tokens" for axis, size in enumerate(item.shape) if size == 7}
    return found if name.startswith("pairs.") else {0: "rows"} | found


def _drop_unread_inputs(graph: ModelProto) -> None:
    read = {name for node in graph.graph.node for name in node.input}
    kept = [item for item in graph.graph.input if item.name in read]
    del graph.graph.input[:]
    graph.graph.input.extend(kept)


def _quantised(graph: ModelProto, settings: Quantisation) -> ModelProto:
    """Return the graph with its products of weights in 8 bits.

    Raises
    ------
    RuntimeError
        A product with weights was left in floating point.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as scratch:
        quantize_dynamic(
            graph,
            Path(scratch, "quantised.onnx"),
            op_types_to_quantize=list(_PRODUCTS),
            per_channel=settings.per_channel,
            reduce_range=settings.reduce_range,
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": TensorProto.FLOAT},
        )
        found = onnx.load(f"{scratch}/quantised.onnx")
    weights = {item.name for item in found.graph.initializer}
    left = [
        node.name
        for node in found.graph.node
        if node.op_type in _PRODUCTS and len(node.input) > 1 and node.input[1] in weights
    ]
    if left or not any(node.op_type == _QUANTISED for node in found.graph.node):
        raise RuntimeError(f"quantisation skipped {left or 'all products'}")
    return found


def has_vnni() -> bool:
    """Whether this processor multiplies 8-bit integers without overflow in between."""
    import platform

    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    file = Path("/proc/cpuinfo")
    flags = file.read_text().split() if file.is_file() else []
    return any(name in flags for name in ("avx512_vnni", "avx_vnni"))


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
