"""How much is left: an estimate before a run starts, made better by every stage that ends.

The first guess scales the seconds that stages of the default task took on two slow cores (`REFERENCE`) by the number of
examples that they train on; stages that ran here before are taken at the time they took, scaled likewise, and whatever a
finished stage shows of this machine's speed is applied to those that are left.

    python -m adaptive_pipeline.progress summary
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptive_inference.data.splits import most_training_rows
from adaptive_inference.errors import UserError
from adaptive_inference.files import write_json
from adaptive_inference.settings.training import WeightLearning
from adaptive_pipeline.runs.environment import installed, other_versions

if TYPE_CHECKING:
    from adaptive_inference.settings.inputs import Task
    from adaptive_pipeline.dvc_graph import StageNode
    from adaptive_pipeline.params import Params

PLAN = Path("logs/plan.json")
DURATIONS = Path("logs/durations")

#: Seconds of one stage of the default task, two at a time; of trainings, beyond `START`, for `REFERENCE_EXAMPLES`.
REFERENCE = {
    "prepare_data": 15.0,
    "finetune_backbone": 90.0,
    "train_sweet": 95.0,
    "train_leebert": 95.0,
    "train_multi_model": 110.0,
    "collect_answers": 15.0,
    "calibrate_thresholds": 5.0,
    "evaluate_batch1": 25.0,
    "make_tables": 10.0,
}
REFERENCE_EXAMPLES = 4_080  # training rows x epochs
START = 10.0  # imports and DVC, whatever is trained
ROWS_OF_A_HUB = 5_000  # where the params do not limit them


def announce(
    stages: list[StageNode], params: Params, cores: int, built_elsewhere: Collection[str] = ()
) -> None:
    """Say how many stages will run and about how long, and leave the plan for the stages that end.

    Parameters
    ----------
    built_elsewhere
        Stages that another version of this project built, see `dvc_graph.built_by_another_version`.
    """
    from adaptive_pipeline.dvc_graph import stale_closure
    from adaptive_pipeline.settings import threads

    PLAN.unlink(missing_ok=True)
    if any(stage.stale is None for stage in stages):
        say("a stage of an earlier run is still working, so how much is left is not known")
        return
    pending = set(stale_closure(stages))
    if again := pending.intersection(built_elsewhere):
        say(run_again(again))
    rows = {name: training_rows(task) for name, task in params.tasks.items()} if pending else {}
    entries = [
        {
            "name": stage.name,
            "guess": guess(stage.name, count),
            "examples": count,
            "known": (DURATIONS / f"{stage.name}.json").is_file(),
            "threads": threads(stage, params, cores),
            "upstream": list(stage.upstream),
        }
        for stage in stages
        if stage.name in pending
        for count in [examples(stage, params, rows)]
    ]
    PLAN.parent.mkdir(exist_ok=True)
    PLAN.write_text(json.dumps({"cores": cores, "began": time.time(), "stages": entries}), encoding="utf-8")
    if entries:
        rough = "" if any(entry["known"] for entry in entries) else " (rough: nothing was timed here yet)"
        say(f"{len(entries)} of {len(stages)} stages to run{_left(entries, cores)}{rough}")
    else:
        say("all stages are computed; only what sits on top of them is made anew")


def run_again(names: Collection[str]) -> str:
    """Tell which stages another version of this project built, and what to do before they run again."""
    families = Counter(name.partition("@")[0] for name in sorted(names))
    return (
        "built by a version of this project that had other files, these run again: "
        f"{', '.join(f'{count} {family}' for family, count in families.items())}. To keep their records, stop now and "
        "`make keep` first, in that version"
    )


def tell_of_other_versions(stages: list[StageNode]) -> None:
    """Name the finished trainings that were made with other versions of the libraries than are installed."""
    from adaptive_pipeline.dvc_graph import stale_closure

    pending = stale_closure(stages)
    made = {
        Path(out): stage.name
        for stage in stages
        if stage.name not in pending
        for out in stage.outs
        if out.endswith("train_timings.json")
    }
    if found := other_versions(made):
        told = [
            f"{_some([made[file] for file in files])} with {used} (here {installed(used.split()[0])})"
            for used, files in found.items()
        ]
        say(
            f"made with other versions than are installed, these trainings may differ from the ones that run now: "
            f"{'; '.join(told)}. They stay as they are; `dvc repro --force --single-item STAGE` makes one anew"
        )


def guess(name: str, examples: int | None) -> float:
    """Return the seconds that a stage will take: what it took last time, else the reference, scaled to its examples."""
    past = _took(name)
    seconds, then = past or (REFERENCE.get(name.partition("@")[0], 30.0), REFERENCE_EXAMPLES)
    if examples is None or not then:
        return seconds
    start = min(START, seconds)
    return start + (seconds - start) * examples / then


def examples(stage: StageNode, params: Params, rows: dict[str, int]) -> int | None:
    """Return the training rows that a stage reads times its epochs; None unless it trains.

    Parameters
    ----------
    rows
        Training rows of each task, see `training_rows`.
    """
    if not stage.family.startswith(("finetune_", "train_")):
        return None
    task = stage.argument("task") or ""
    training, own = params.training_of(task, stage.argument("method") or "full")
    scheme = (own.weight_learning or WeightLearning()).scheme
    halved = own.objective == "weight_learning" and scheme != "slo"  # an epoch is half of the rows
    return rows[task] * training.epochs // (2 if halved else 1)


def training_rows(task: Task) -> int:
    """Return about how many rows a task trains on; what is wrong with its file is told by `prepare_data`."""
    try:
        return most_training_rows(task, Path("data")) or ROWS_OF_A_HUB
    except (UserError, OSError):
        return ROWS_OF_A_HUB


def _took(name: str) -> tuple[float, int | None] | None:
    """Return the seconds of a stage that ran here, and what it trained on; None where no file tells."""
    try:
        body = json.loads((DURATIONS / f"{name}.json").read_text(encoding="utf-8"))
        return float(body["seconds"]), body.get("examples")
    except (OSError, ValueError, KeyError):
        return None


def ended(name: str, seconds: float, log: Path) -> None:
    """Note how long a stage took, if it was executed, and say how much is left."""
    executed = "Running stage" in log.read_text(encoding="utf-8", errors="replace")
    plan = json.loads(PLAN.read_text(encoding="utf-8")) if PLAN.is_file() else None
    if executed:
        stages = plan["stages"] if plan else []
        before = _took(name) or (0.0, None)
        trained_on = next((entry["examples"] for entry in stages if entry["name"] == name), before[1])
        DURATIONS.mkdir(parents=True, exist_ok=True)
        write_json(DURATIONS / f"{name}.json", {"seconds": seconds, "examples": trained_on})
    what = f"{name} took {human(seconds)}" if executed else f"{name} was computed before"
    if plan is None:
        say(what)
        return
    done = [entry for entry in plan["stages"] if _is_done(entry["name"], plan["began"])]
    left = [entry for entry in plan["stages"] if entry not in done]
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
        past = None if entry["known"] else _took(entry["name"])
        if past and (DURATIONS / f"{entry['name']}.json").stat().st_mtime >= began:
            for key in ("", _family(entry)):
                guessed[key] = guessed.get(key, 0.0) + entry["guess"]
                taken[key] = taken.get(key, 0.0) + past[0]
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
        "\nReport:  results/report.html (`make report` shows it)"
        "\nMLflow:  `make ui`, then http://127.0.0.1:5000",
        flush=True,
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more


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
