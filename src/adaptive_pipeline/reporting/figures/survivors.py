"""Where rows leave against how many of their tokens are left there."""

from __future__ import annotations

from pathlib import Path

from adaptive_pipeline.reporting.combined import evaluated_combinations, parts_at, pooled_counts
from adaptive_pipeline.reporting.figures.style import canvas, save
from adaptive_pipeline.reporting.frame import Results
from adaptive_pipeline.reporting.goal_rows import goal_of
from adaptive_pipeline.reporting.names import method_name, rule_name


def draw_exit_survivors(results: Results, folder: Path, stem: str) -> list[str]:
    """Draw the share of rows by exit layer and share of tokens left, of each method that does both, at the goal."""
    goal, names = goal_of(results), []
    for combination in evaluated_combinations(results):
        row = parts_at(results, combination, goal).get("both")
        if row is None:
            continue
        counts = pooled_counts(results, row)
        shares = 100 * counts / counts.to_numpy().sum()
        parts, layers = len(counts), list(counts.columns)
        with canvas(2.6 + 0.75 * len(layers), 3.9) as (figure, (axes,)):
            image = axes.imshow(shares, cmap="cividis", aspect="auto", origin="lower", vmin=0)
            for place, layer in enumerate(layers):
                for part in range(parts):
                    share = shares[layer].iloc[part]
                    if share:
                        dark = image.norm(share) < 0.55
                        axes.annotate(
                            f"{share:.0f}" if share >= 1 else "<1", (place, part), ha="center", va="center", fontsize=7.5,
                            color="white" if dark else "black",
                        )  # fmt: skip
            axes.set_xticks(range(len(layers)), layers)
            axes.set_yticks([part - 0.5 for part in range(0, parts + 1, 2)], range(0, 101, 200 // parts))
            axes.set_xlabel("leaves after layer")
            axes.set_ylabel("tokens left there, % of the row's")
            axes.grid(visible=False)
            axes.set_title(
                f"{results.title}: {method_name(row.method)}, {rule_name(row.rule)},\n{goal.words}",
                loc="left",
            )
            figure.colorbar(image, label="rows, %")
            names.append(save(figure, folder, f"{stem}-{row.method}"))
    return names
