"""The full model in OpenVINO, weights in 8 bits, activations quantised as they come: an optional opponent.

The project does not install it (`pip install openvino nncf`), and no test of it runs without.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from encoders import config
from transformers import BertForSequenceClassification


def installed() -> bool:
    """Say whether there is such an opponent here."""
    return all(map(find_spec, ("openvino", "nncf")))


def static(layers: int, width: int, threads: int, ids: np.ndarray) -> Callable[[], Any]:
    """Return a call of the stock classifier's graph on rows without padding."""
    request = compiled(layers, width, threads).create_infer_request()
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return lambda: request.infer(given)


@lru_cache(maxsize=2)
def compiled(layers: int, width: int, threads: int) -> Any:
    """Return the graph for the CPU; activations are quantised in groups, the faster of what it offers."""
    import nncf
    import openvino

    torch.manual_seed(0)
    model = BertForSequenceClassification(config(layers, width)).eval()
    example = {name: torch.ones(1, 16, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    graph = nncf.compress_weights(
        openvino.convert_model(model, example_input=example), mode=nncf.CompressWeightsMode.INT8_ASYM
    )
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "32",
    }
    return openvino.Core().compile_model(graph, "CPU", settings)
