"""How much is left: an estimate before a run starts, made better by every stage that ends.

The first guess scales the seconds that stages of the default preset took on two slow cores (`REFERENCE`) by the number of
training examples; stages that ran here before are taken at the time they took, and whatever a finished stage shows of this
machine's speed is applied to those that are left.

    python workflow/progress.py summary
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptive_inference.records import write_json

if TYPE_CHECKING:
    from adaptive_inference.params import Params
    from dag import StageNode

PLAN = Path("logs/plan.json")
DURATIONS = Path("logs/durations")

#: Seconds of one stage of the default preset when it had 4,400 rows, and whether they grow with the training examples.
REFERENCE = {
    "prepare_data": (25.0, False),
    "finetune_backbone": (140.0, True),
    "train_sweet": (115.0, True),
    "train_leebert": (115.0, True),
    "train_multi_model": (117.0, True),
    "calibrate_thresholds": (21.0, False),
    "evaluate_batch1": (38.0, False),
    "make_tables": (10.0, False),
}
REFERENCE_EXAMPLES = 8_800  # rows x epochs behind `REFERENCE`, as `guess` counts them


def announce(stages: list[StageNode], params: Params, cores: int) -> None:
    """Say how many stages will run and about how long, and leave the plan for the stages that end."""
    from dag import stale_closure
    from stage_settings import threads

    pending = set(stale_closure(stages))
    entries = [
        {
            "name": stage.name,
            "guess": guess(stage, params),
            "known": (DURATIONS / f"{stage.name}.json").is_file(),
            "threads": threads(stage, params, cores),
            "upstream": list(stage.upstream),
        }
        for stage in stages
        if stage.name in pending
    ]
    PLAN.parent.mkdir(exist_ok=True)
    PLAN.write_text(json.dumps({"cores": cores, "began": time.time(), "stages": entries}), encoding="utf-8")
    if entries:
        rough = "" if any(entry["known"] for entry in entries) else " (rough: nothing was timed here yet)"
        say(f"{len(entries)} of {len(stages)} stages to run{_left(entries, cores)}{rough}")
    else:
        say("all stages are computed; only what sits on top of them is made anew")


def guess(stage: StageNode, params: Params) -> float:
    """Return the seconds that a stage will take: what it took last time, else scaled from the reference."""
    past = DURATIONS / f"{stage.name}.json"
    if (took := _took(past)) is not None:
        return took
    seconds, grows = REFERENCE.get(stage.family, (30.0, False))
    task = params.tasks.get(stage.argument("task") or "")
    if not grows or task is None:
        return seconds
    rows = task.train_rows or (task.generated.rows if task.generated else 5000)
    return 5.0 + seconds * rows * params.training.epochs / REFERENCE_EXAMPLES


def _took(past: Path) -> float | None:
    """Return the seconds in a file of `DURATIONS`, None where there is none that can be read."""
    try:
        return float(json.loads(past.read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError):
        return None


def ended(name: str, seconds: float, log: Path) -> None:
    """Note how long a stage took, if it was executed, and say how much is left."""
    executed = "Running stage" in log.read_text(encoding="utf-8", errors="replace")
    if executed:
        DURATIONS.mkdir(parents=True, exist_ok=True)
        write_json(DURATIONS / f"{name}.json", {"seconds": seconds})
    if not PLAN.is_file():
        return
    plan = json.loads(PLAN.read_text(encoding="utf-8"))
    done = [entry for entry in plan["stages"] if _is_done(entry["name"], plan["began"])]
    left = [entry for entry in plan["stages"] if entry not in done]
    what = f"{name} took {human(seconds)}" if executed else f"{name} was computed before"
    state = f"{len(done)} of {len(plan['stages'])} stages done" if plan["stages"] else "nothing else to run"
    more = _left(refined(left, done, plan["began"]), plan["cores"]) if left else ""
    say(f"{what}; {state}{more}")


def refined(left: list[dict[str, Any]], done: list[dict[str, Any]], began: float) -> list[dict[str, Any]]:
    """Return the entries that are left with better guesses.

    What was guessed from the reference is scaled by how much slower this machine proved: in stages of the same family,
    else in all. A minute on both sides of the latter keeps the first short stage from being taken for the whole truth.
    """
    guessed, taken = {"": 60.0}, {"": 60.0}
    for entry in done:
        past = DURATIONS / f"{entry['name']}.json"
        seconds = None if entry["known"] else _took(past)
        if seconds is not None and past.stat().st_mtime >= began:
            for key in ("", _family(entry)):
                guessed[key] = guessed.get(key, 0.0) + entry["guess"]
                taken[key] = taken.get(key, 0.0) + seconds
    slower = {key: taken[key] / guessed[key] for key in guessed}
    return [
        entry
        if entry["known"]
        else entry | {"guess": entry["guess"] * slower.get(_family(entry), slower[""])}
        for entry in left
    ]


def remaining(entries: list[dict[str, Any]], cores: int) -> float:
    """Return the seconds until all entries have run on so many cores, each after its upstream stages."""
    waiting = {entry["name"]: entry for entry in entries}
    running: list[tuple[float, str, int]] = []
    now, free = 0.0, cores
    while waiting or running:
        unfinished = waiting.keys() | {name for _, name, _ in running}
        for entry in list(waiting.values()):
            need = min(entry["threads"], cores)
            if need <= free and not unfinished.intersection(entry["upstream"]):
                heapq.heappush(running, (now + entry["guess"], entry["name"], need))
                free -= need
                del waiting[entry["name"]]
        now, _, need = heapq.heappop(running)
        free += need
    return now


def human(seconds: float) -> str:
    """Return a duration as a person says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def say(text: str) -> None:
    """Write one line to the terminal."""
    print(f"adaptive-inference: {text}", file=sys.stderr, flush=True)


def summary(root: Path = Path(".")) -> None:
    """Print the main table, the recommendation, and where the rest is."""
    for name in ("results/tables/main.md", "results/recommendation.md"):
        if (root / name).is_file():
            print(f"\n{(root / name).read_text(encoding='utf-8').strip()}")
    print(
        "\nTables:  results/tables/main.csv, .md, .tex\nFigures: results/figures/"
        "\nReport:  report.html (`make report`, or `snakemake --report report.html`)"
        "\nMLflow:  `make ui`, then http://127.0.0.1:5000",
        flush=True,
    )


def _left(entries: list[dict[str, Any]], cores: int) -> str:
    return f", about {human(remaining(entries, cores))} left on {cores} cores"


def _family(entry: dict[str, Any]) -> str:
    return str(entry["name"]).partition("@")[0]


def _is_done(name: str, began: float) -> bool:
    receipt = Path(f"receipts/{name}.json")
    return receipt.is_file() and receipt.stat().st_mtime >= began


def main() -> None:
    """Print the summary again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "command", choices=["summary"], help="print the table, the recommendation and where the rest is"
    )
    parser.parse_args()
    summary()


if __name__ == "__main__":
    main()
