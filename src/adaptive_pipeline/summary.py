"""What a run ends with: what to use, what it costs and brings, where all is, what to do next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adaptive_inference.files import read_json
from adaptive_pipeline.reporting.names import method_name, rule_name

#: Recommendations that are told; of more, `results/recommendation.md` does.
SHOWN = 4
SPEEDUPS = {"wallclock": "measured", "flops": "by FLOPs", "layers": "by layers"}


def summary(root: Path = Path()) -> str:
    """Return the end of a run as text: a line per recommendation, then four.

    Parameters
    ----------
    root
        The project's folder; ``results/recommendation.json`` is read in it.
    """
    body = read_json(root / "results/recommendation.json")
    choices, goal = body["choices"], body["max_loss_points"]
    told = [f"Recommended for {_recommended(choice, goal)}" for choice in choices[:SHOWN]]
    if len(choices) > SHOWN:
        told.append(f"and {len(choices) - SHOWN} more: results/recommendation.md")
    command = next((choice["command"] for choice in choices if choice.get("command")), None)
    decoding = "results/tables/generation.md"
    if (root / decoding).is_file():
        told.append(f"Early-exit decoding: {decoding}")
    return "\n".join(
        [
            *(told or ["Recommended: nothing yet, no cell is evaluated"]),
            "Why, and all figures: results/recommendation.md, results/tables/main.md, results/figures/",
            f"Model: {'results/model/' if command else 'none, since its weights are not here'}",
            "Report: results/report.html (`make report`); training curves and runs: `make ui`",
            f"Next: {command or 'docs/own_data.md tells how to run on texts of your own'}",
        ]
    )


def _recommended(choice: dict[str, Any], goal: float) -> str:
    where = f"{choice['task']} with {choice['backbone']}"
    if "evaluation" not in choice:
        return f"{where}: nothing yet ({choice['why']})"
    if "deployment" in choice:
        return f"{where}: {_deployed(choice['deployment'], goal)}"
    if not choice["qualifies"]:
        points = f"{goal:g} {'point' if goal == 1 else 'points'}"
        return f"{where}: the full model, since nothing faster can be promised to lose at most {points}"
    offer, found, clock = choice["offer"], choice["evaluation"], choice["wallclock"] or {}
    change = _change(found, goal)
    measured = found | {"wallclock_speedup": clock.get("wallclock_speedup")}
    speedups = [
        f"{measured[f'{key}_speedup']:.2f} x {how}"
        for key, how in SPEEDUPS.items()
        if measured.get(f"{key}_speedup")
    ]
    return f"{where}: {_who(offer)}, {change}; faster {', '.join(speedups)}"


def _change(found: dict[str, Any], goal: float) -> str:
    lost = found["loss"]
    change = f"{'lost' if lost >= 0 else 'gained'} {abs(lost):.2f} points on texts not seen"
    return change if found["goal_held"] else f"{change}, more than the goal of {goal:g}"


def _deployed(body: dict[str, Any], goal: float) -> str:
    offer, clock = body["offer"], body["wallclock"]
    who = "the full model" if offer["method"] == "full" else _who(offer)
    speed = f"{clock['wallclock_speedup']:.2f} x as fast as the full model in PyTorch"
    if clock["static_int8_speedup"]:
        speed += f", {clock['static_int8_speedup']:.2f} x as fast as in static int8"
    change = _change(body["evaluation"], goal)
    if offer["asked"] == "max_latency_ms" and not offer["kept"]:
        speed += f", slower than the {offer['limit']:g} ms asked for"
    return f"{who} as {offer['deployment']}, {change}; {speed}"


def _who(offer: dict[str, Any]) -> str:
    setting, trained = offer["setting"], method_name(offer["method"])
    if setting["member"] is not None:
        return f"the first {setting['member']} layers of {trained}"
    return f"{trained} (leaves by {rule_name(setting['rule'])})"
