r"""Does a recommendation keep its promise? Draws calibration and evaluation rows anew, many times, from saved answers.

The rows of both splits are pooled (no model was trained on either) and split again at random into parts of the old sizes.
On each calibration part all is made again: temperatures, thresholds, choice. Then the loss of what was recommended is
looked up on the evaluation part. Nothing is trained. Writes ``promise.csv``, the old way's ``largest_speedup.csv`` (the
fastest candidate that keeps the goal on the calibration rows) and ``promise.png``, a row per preset and task.

With ``--deployments`` the candidates are those of `choose_deployment` in place of `recommend`: the full and the recommended
model as they were exported, in all deployments, with the latencies that were measured.

    python docs/promise/simulate.py classifiers=runs/tiers/minilm/seed0 --params presets/classifiers.yaml --draws 100
    python docs/promise/simulate.py default=runs/tiers/minilm/seed0 --deployments
    python docs/promise/simulate.py --figure
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from adaptive_inference.calibration.answers import Answers
from adaptive_inference.calibration.curves import calibrate
from adaptive_inference.calibration.fit import fit_calibrator
from adaptive_inference.calibration.operating_point import static_layers
from adaptive_inference.cost.yardstick import Yardstick
from adaptive_inference.errors import UserError
from adaptive_inference.exit_rules import load_rules
from adaptive_inference.exits.outputs import ExitOutputs
from adaptive_inference.files import read_json
from adaptive_inference.selection.candidates import Candidates, Family
from adaptive_inference.selection.drift import two_sample_test
from adaptive_inference.selection.families import families_of, timed_families_of
from adaptive_inference.selection.pool import Pool
from adaptive_inference.selection.promise import NONE, Resampled
from adaptive_pipeline.params import Params, load_params
from adaptive_pipeline.runs.records import Drift

HERE = Path(__file__).parent
COLUMNS = (
    "preset", "task", "draws", "held", "confidence", "mean_loss", "mean_speedup", "fallback", "oracle_speedup", "real_loss",
    "drift",
)  # fmt: skip


class Method:
    """A method's answers to the rows of both splits, those of calibration first."""

    def __init__(self, folder: Path, rules: list[str], answers: Path | None = None) -> None:
        home = answers or folder / "answers"
        parts = [Answers.load(home / f"{split}.safetensors") for split in ("calibration", "evaluation")]
        self.name, self.rules, self.cascade = folder.name, load_rules(rules), parts[0].cascade
        self.outputs = _joined(ExitOutputs, *(part.outputs for part in parts))
        self.yardstick = _joined(Yardstick, *(part.yardstick for part in parts))
        self.calibration_rows = len(parts[0].outputs.labels)
        self.parts = parts

    def take(self, rows: np.ndarray) -> tuple[ExitOutputs, Yardstick]:
        """Return outputs and costs of some rows."""
        costs = {name: getattr(self.yardstick, name)[rows] for name in ("full_flops", "flops")}
        return self.outputs.take(rows), replace(self.yardstick, **costs)

    def offered(self, fitted_on: np.ndarray, rows: np.ndarray, params: Params) -> Candidates:
        """Return the candidates on some rows, with the temperatures of others."""
        raw, yardstick = self.take(rows)
        calibrator = fit_calibrator(
            self.outputs.take(fitted_on), yardstick.kind, params.calibration.temperature
        )
        families = self._families(calibrate(raw, calibrator), yardstick, params.calibration.thresholds)
        return Candidates(self.name, yardstick.metric, yardstick.num_classes, raw.labels, rows, families)

    def _families(self, outputs: ExitOutputs, yardstick: Yardstick, thresholds: int) -> tuple[Family, ...]:
        rules = load_rules(["fixed"]) if self.name == "full" else self.rules
        return families_of(rules, outputs, yardstick, thresholds, self.cascade)


class Deployed(Method):
    """A model in one deployment, with what leaving at each of its exits takes."""

    def __init__(self, name: str, answers: Path, rules: list[str], time_E: np.ndarray) -> None:
        super().__init__(answers.parent, list(dict.fromkeys([*rules, "fixed"])), answers)
        self.name, self.cascade, self._time_E = name, False, time_E

    def _families(self, outputs: ExitOutputs, yardstick: Yardstick, thresholds: int) -> tuple[Family, ...]:
        return timed_families_of(self.rules, outputs, yardstick, thresholds, self._time_E)


def deployments_of(root: Path, params: Params) -> list[Method]:
    """Return the full and the recommended model in all their deployments, the full one in PyTorch first."""
    of_seed = root.parent / "recommended" / root.name
    timed = read_json(of_seed / "deployment_timings.json")
    found: list[Method] = []
    for item in timed["latency"]:
        key, name = item["method"], item["deployment"]
        if static_layers(key) is not None:
            raise UserError(
                f"{key} is a member of a cascade, whose answers are not a model's of their own here"
            )
        folder = root / key / "answers" if name == "torch" else of_seed / "deployed" / key / name
        rules = [] if key == "full" else list(params.method(key).rules)
        time_E = np.array(item["ms"]) / timed["full_ms"]
        found.append(Deployed("full" if not found else f"{key} {name}", folder, rules, time_E))
    return found


def _joined(kind: type, first: Any, second: Any) -> Any:
    """Put two sets of rows together; what is no array of rows is that of the first."""
    count = {
        id(part): len(part.labels if kind is ExitOutputs else part.full_flops) for part in (first, second)
    }
    found = {}
    for item in fields(kind):
        values = [getattr(part, item.name) for part in (first, second)]
        rowwise = all(
            isinstance(value, np.ndarray) and len(value) == count[id(part)]
            for value, part in zip(values, (first, second), strict=True)
        )
        found[item.name] = np.concatenate(values) if rowwise else values[0]
    return kind(**found)


def cost_of(methods: list[Method], params: Params) -> str:
    """Return the currency in which candidates are compared."""
    return "clock" if isinstance(methods[0], Deployed) else params.goal.cost


def pool_of(methods: list[Method], fitted_on: np.ndarray, rows: np.ndarray, params: Params) -> Pool:
    """Return all candidates on some rows, with the temperatures of others."""
    full, *others = (method.offered(fitted_on, rows, params) for method in methods)
    return Pool.of(full, others, cost_of(methods, params))


def losses_elsewhere(
    methods: list[Method], pool: Pool, chosen: list[int], parts: tuple[np.ndarray, np.ndarray], params: Params
) -> list[tuple[float, float]]:
    """Return loss in points and speed-up of some candidates on the other part of a split."""
    inner, outer = parts
    found = []
    by_name = {method.name: method for method in methods}
    full_outputs, _ = by_name["full"].take(outer)
    for c in chosen:
        if c == NONE:
            found.append((0.0, 1.0))
            continue
        method, setting = by_name[pool.name(c)[0]], pool.setting(c)
        candidates = method.offered(inner, outer, params)
        family = next(
            item
            for item in candidates.families
            if item.rule == setting.rule and (setting.member is not None) == bool(item.members[0])
        )
        t = int(
            np.flatnonzero(
                (family.thresholds == setting.threshold) & (family.members == (setting.member or 0))
            )[0]
        )
        full = full_outputs.logits[:, -1].argmax(-1)
        right = [(answers == full_outputs.labels).mean() for answers in (full, family.answers[t])]
        found.append((100.0 * float(right[0] - right[1]), float(family.speedup(cost_of(methods, params))[t])))
    return found


def methods_of(root: Path, params: Params) -> list[Method]:
    """Return the methods of a seed, the full model first."""
    order = sorted(params.methods, key=lambda method: (method != "full", method))
    return [Method(root / method, list(params.method(method).rules)) for method in order]


def simulate(
    name: str, root: Path, methods: list[Method], params: Params, draws: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a pair's row of the promise's table, and of the old way's."""
    goal, size = params.goal, methods[0].calibration_rows
    total = len(methods[0].outputs.labels)
    everything = np.arange(total)
    found: dict[str, list[tuple[float, float]]] = {"promise": [], "old": []}
    for draw in range(draws):
        shuffled = np.random.default_rng([17, draw]).permutation(total)
        parts = np.sort(shuffled[:size]), np.sort(shuffled[size:])
        for way, result in zip(found, _both(methods, parts, params), strict=True):
            found[way].append(result)
        if (draw + 1) % 20 == 0:
            so_far = np.array(found["promise"])
            print(
                f"{name}: {draw + 1} draws, held {np.mean(so_far[:, 0] <= goal.max_loss + 1e-7):.3f}",
                flush=True,
            )
    real = _both(methods, (everything[:size], everything[size:]), params)
    whole = pool_of(methods, everything, everything, params)
    fit = whole.losses(everything) <= goal.max_loss + 1e-7
    oracle = float(whole.speedup[fit].max(initial=1.0))
    first, second = (part.outputs for part in methods[0].parts)
    tested = two_sample_test(first, second, methods[0].yardstick.kind)
    drift = tested is not None and Drift(**tested).found
    rows = []
    for way, (real_loss, _) in zip(found, real, strict=True):
        loss, speedup = np.array(found[way]).T
        rows.append(
            dict(
                zip(
                    COLUMNS,
                    (
                        name, root.parent.parent.name, draws, round(float(np.mean(loss <= goal.max_loss + 1e-7)), 4),
                        goal.confidence, round(float(loss.mean()), 4), round(float(1 / np.mean(1 / speedup)), 4),
                        round(float(np.mean(speedup == 1.0)), 4), round(oracle, 4), round(real_loss, 4), bool(drift),
                    ),
                    strict=True,
                )
            )
        )  # fmt: skip
    return rows[0], rows[1]


def _both(
    methods: list[Method], parts: tuple[np.ndarray, np.ndarray], params: Params
) -> list[tuple[float, float]]:
    """Return loss and speed-up, on the second part, of what each way chooses on the first."""
    pool = pool_of(methods, parts[0], parts[0], params)
    resampled = Resampled(pool)
    promised = resampled.promise(params.goal.max_loss, params.goal.confidence).chosen
    lost = pool.losses(np.arange(len(parts[0])))
    fit = np.flatnonzero(lost <= params.goal.max_loss + 1e-7)
    old = int(fit[pool.speedup[fit].argmax()]) if len(fit) else NONE
    return losses_elsewhere(methods, pool, [promised, old], parts, params)


def merge(file: Path, row: dict[str, Any]) -> None:
    """Put a row into a table, in the place of that of the same preset and task."""
    there: list[dict[str, Any]] = []
    if file.is_file():
        with file.open(newline="", encoding="utf-8") as stream:
            there = list(csv.DictReader(stream))
    rows = [item for item in there if (item["preset"], item["task"]) != (row["preset"], row["task"])] + [row]
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda item: (item["preset"], item["task"])))


def tables() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Yield both tables."""
    for name in ("promise", "largest_speedup"):
        with (HERE / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
            yield name, list(csv.DictReader(stream))


def draw_figure() -> None:
    """Draw how often each way holds the goal, and at what speed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    both = dict(tables())
    names = [f"{row['preset']}\n{row['task']}" for row in both["promise"]]
    figure, axes = plt.subplots(1, 2, figsize=(10, 0.6 * len(names) + 1.8), sharey=True, layout="constrained")
    ways = {
        "promise": ("with the promise", "#0072B2", "o"),
        "largest_speedup": ("the old way", "#D55E00", "s"),
    }
    for way, (label, colour, marker) in ways.items():
        for axis, column in zip(axes, ("held", "mean_speedup"), strict=True):
            axis.plot(
                [float(row[column]) for row in both[way]],
                range(len(names)),
                marker,
                color=colour,
                label=label,
            )
    axes[1].plot(
        [float(row["oracle_speedup"]) for row in both["promise"]], range(len(names)), "|", color="#333333", markersize=14,
        label="fastest within the goal on all rows",
    )  # fmt: skip
    axes[0].axvline(0.8, color="#999999", linewidth=1, linestyle="--")
    axes[0].set(xlim=(0, 1), xlabel="share of draws in which the goal held (asked: 0.8)")
    axes[1].set(xlabel="speed-up of what was recommended (harmonic mean)")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    axes[1].legend(loc="lower right")
    figure.savefig(HERE / "promise.png", dpi=110, metadata={"Software": None})


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", nargs="*", help="PRESET=FOLDER of a seed's methods with their answers")
    parser.add_argument("--params", default="params.yaml", help="params file (default: params.yaml)")
    parser.add_argument("--draws", type=int, default=1000, help="splits drawn (default: 1000)")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the tables (default: this one)")
    parser.add_argument("--deployments", action="store_true", help="choose among deployments")
    parser.add_argument("--figure", action="store_true", help="draw the figure of the tables")
    args = parser.parse_args()
    params = load_params(args.params)
    for pair in args.pairs:
        name, _, folder = pair.partition("=")
        root = Path(folder)
        methods = deployments_of(root, params) if args.deployments else methods_of(root, params)
        name += ", deployments" * args.deployments
        promised, old = simulate(name, root, methods, params, args.draws)
        merge(args.out / "promise.csv", promised)
        merge(args.out / "largest_speedup.csv", old)
    if args.figure:
        draw_figure()


if __name__ == "__main__":
    main()
