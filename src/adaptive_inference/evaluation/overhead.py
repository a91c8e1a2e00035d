"""What removing tokens costs before it saves anything: the same model with its predictors at work and nothing removed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from adaptive_inference.calibration.curves import calibrate
from adaptive_inference.calibration.operating_point import Goal, OperatingPoint, Setting
from adaptive_inference.cost.flops import flops_by_exit
from adaptive_inference.evaluation.candidate import Candidate
from adaptive_inference.exits.outputs import collect_outputs

if TYPE_CHECKING:
    from adaptive_inference.exits import MultiExitModel


def nothing_removed(
    candidate: Candidate, features: Sequence[Mapping[str, Any]], batch_size: int
) -> tuple[OperatingPoint, Candidate]:
    """Return the point at which a model runs all layers on all tokens, and who answers there.

    It qualifies, since nothing is asked of it; no goal can choose it, since calibration has not seen it.

    Parameters
    ----------
    candidate
        With a `MultiExitModel` that has a reduction.
    features
        The rows that it answered, as `tasks.encode.encode` returns them.
    batch_size
        Rows per forward.

    Raises
    ------
    ValueError
        The model has no reduction.
    """
    model = with_thresholds_of_zero(candidate.model)  # type: ignore[arg-type]
    raw = collect_outputs(model, list(map(dict, features)), batch_size, candidate.outputs.tiers)
    flops = flops_by_exit(model, raw.lengths, raw.survivors)
    point = OperatingPoint(Goal("nothing_removed"), Setting("fixed", len(raw.exits) - 1.0), True)
    who = replace(
        candidate,
        model=model,
        outputs=calibrate(raw, candidate.calibrator),
        yardstick=replace(candidate.yardstick, flops=flops),
    )
    return point, who


def with_thresholds_of_zero(model: MultiExitModel) -> MultiExitModel:
    """Return a model that shares all weights and removes no token: its thresholds are 0, which every score reaches.

    Raises
    ------
    ValueError
        The model has no reduction.
    """
    import torch

    if model.reduction is None:
        raise ValueError("the model removes no tokens; there is nothing to leave out")
    shared = (*model.parameters(), *model.buffers(), model.tokenizer)
    twin = copy.deepcopy(model, {id(item): item for item in shared})
    twin.reduction.eta = torch.nn.Parameter(torch.zeros_like(model.reduction.eta), requires_grad=False)
    return twin
