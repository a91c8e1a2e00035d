"""``adaptive-inference calibrate``: choose a saved model's thresholds again, on labelled rows of one's own."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptive_inference.cli.options import (
    add_batch_size,
    add_column,
    add_command,
    add_device,
    add_own_code,
    check_batch_size,
)
from adaptive_inference.errors import UserError, nearest

if TYPE_CHECKING:
    from adaptive_inference.calibration.operating_point import Setting
    from adaptive_inference.data.local import Table
    from adaptive_inference.exits.layout import SavedModel
    from adaptive_inference.serving.metadata import Encoder
    from adaptive_inference.serving.recalibrate import Measured, Recalibrated
    from adaptive_inference.tasks.schema import Schema, Split

#: What the calibration and the card that a model came with are kept as, beside the new ones.
ORIGINAL, ORIGINAL_CARD = "calibration.original.json", "README.original.md"
#: Folders, beside a dvc.yaml, that its stages write again.
_WRITTEN_BY_RUNS = ("results", "runs")

TEXT = """Choose temperatures and thresholds again, on labelled rows of your own. Do this where the rows that the model meets
differ from those that it was calibrated on: its old threshold then leaves too early, or too late. Weights stay as they are.

FILE is a table (.csv, .tsv, .jsonl, .gz of these, .parquet) with a text column and a label column. The loss is counted
against the model at full depth, whose last exit stands for the full model. The report has three lines: what the old
threshold gives on these rows, what the new one gives on them, and what to expect on new rows, where each half of the
rows is answered with what was chosen on the other half.

With --out DIR a copy of the model gets the new calibration. Without it, MODEL_DIR itself does; the calibration that it
came with stays beside it as calibration.original.json. Folders that a run writes again (`runs/`, and `results/` where the
model was made) are left alone: there --out is needed."""

EXAMPLES = """examples:
  adaptive-inference calibrate results/model labelled.csv --max-loss 1 --out mine/
  adaptive-inference calibrate results/model labelled.csv --label team --column message --out mine/
  adaptive-inference calibrate runs/tiers/minilm/seed0/sweet labelled.jsonl --rule confidence --rule patience --out mine/"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "calibrate",
        _calibrate,
        "choose thresholds again on labelled rows of your own",
        TEXT,
        EXAMPLES,
    )
    parser.add_argument(
        "model", metavar="MODEL_DIR", type=Path, help="exported folder, or a method's run folder"
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="table of labelled rows")
    parser.add_argument(
        "--max-loss",
        metavar="POINTS",
        type=float,
        default=1.0,
        help="percentage points of quality that may be lost against full depth (default: 1)",
    )
    parser.add_argument(
        "--label",
        metavar="NAME",
        help="column of the label; default: the column `label`, or the only other one",
    )
    add_column(parser)
    parser.add_argument(
        "--rule",
        action="append",
        default=[],
        help="exit rule to choose a threshold for; repeat for more; default: those that the model was calibrated with",
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="copy the model here, which must not exist or be empty"
    )
    add_batch_size(parser, 32, "rows at once (default: 32)")
    add_device(parser)
    add_own_code(parser)


def _calibrate(args: argparse.Namespace) -> None:
    """Tell all that can be wrong before a model, and torch with it, is loaded; then calibrate."""
    from adaptive_inference.cli.rows import open_table
    from adaptive_inference.exits.layout import open_model
    from adaptive_inference.serving.export import encoder_of
    from adaptive_inference.serving.recalibrate import recalibrate, rules_of
    from adaptive_inference.tasks.schema import Schema

    saved = open_model(args.model)
    check_batch_size(args.batch_size)
    if not (math.isfinite(args.max_loss) and args.max_loss >= 0):
        raise UserError(f"--max-loss {args.max_loss:g} must be a number of points from 0, e.g. 1")
    _check_target(args.model, args.out, saved)
    origin = encoder_of(args.model)
    schema = Schema.load(saved.home)
    rules = rules_of(saved.calibration, schema, args.rule)
    split, blank = labelled_rows(open_table(args.file), schema, args.column, args.label)
    from adaptive_inference.serving.predictor import load_on

    model = load_on(args.model, args.device)
    found = recalibrate(model, split, rules, args.max_loss, args.batch_size)
    home = _write(found, saved, origin, args.out)
    print(_report(found, schema, args.file, args.max_loss))
    if blank:
        print(f"note: rows without a text left out, with their labels: {blank}")
    print(f"wrote {home}; predict with it: adaptive-inference predict {home} FILE")


# ---- rows ------------------------------------------------------------------------------------------------------------


def labelled_rows(
    table: Table, schema: Schema, columns: Sequence[str] | None, label: str | None
) -> tuple[Split, int]:
    """Return the rows of a table with their labels as the model numbers them, and how many without a text were left out.

    Raises
    ------
    UserError
        A column is not there, no row has a text, a label is none of the model's, or all labels are one.
    """
    from adaptive_inference.cli.rows import has_text, table_rows, text_columns
    from adaptive_inference.data.labels import read_classes, read_scores, refuse_one_class
    from adaptive_inference.tasks.schema import Example, Split

    column = _label_column(table, text_columns(table, columns, schema), label)
    rows = table_rows(table, columns, schema)
    kept = [place for place, row in enumerate(rows) if has_text(row, table)]
    if blank := len(rows) - len(kept):
        if not kept:
            raise UserError(
                f"{table.origin} holds no text in its {blank} rows; name the right column with --column"
            )
        rows = [rows[place] for place in kept]
        told = f"{table.origin} (rows without a text left out: {blank})"  # for what follows counts the others
        table = replace(table, origin=told, rows=[table.rows[place] for place in kept], lines=None)
    labels: Sequence[int | float]
    if schema.labels is None:
        labels = read_scores(table, column)
    else:
        _check_known(table, column, schema.labels)
        labels = read_classes(table, column, schema.labels)
    refuse_one_class(labels, schema.labels, f"{table.origin}, column {column!r},")
    found = enumerate(zip(rows, labels, strict=True))
    return Split(Example(place, row.texts, value) for place, (row, value) in found), blank


def _label_column(table: Table, texts: Sequence[str], label: str | None) -> str:
    from adaptive_inference.cli.rows import no_column

    others = [name for name in table.columns if name not in texts]
    if label is None and len(others) == 1:
        return others[0]
    column = label or "label"
    if column not in table.columns:
        raise UserError(no_column(table, column, "--label"))
    return column


def _check_known(table: Table, column: str, names: Sequence[str]) -> None:
    """Refuse labels that are no words of the model's, all of them at once; numbers are for `read_classes` to judge."""
    values = (row.get(column) for row in table.rows)
    given = Counter(value.strip() for value in values if isinstance(value, str))
    strange = [name for name in given if name not in names and not name.removeprefix("-").isdecimal()]
    if strange:
        told = ", ".join(f"{name!r} ({given[name]} rows)" for name in strange[:5])
        more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
        raise UserError(
            f"{table.origin}, column {column!r}: the model does not know the labels {told}{more}; allowed: "
            f"{', '.join(names)}{nearest(strange[0], list(names))}; rename them, leave their rows out, or name the right "
            "column with --label"
        )


# ---- what is written and told ----------------------------------------------------------------------------------------


def _check_target(model: Path, out: Path | None, saved: SavedModel) -> None:
    from adaptive_inference.exits.layout import CALIBRATION_FILE
    from adaptive_inference.serving.export import check_empty

    if out is not None:
        check_empty(out)
        if (root := _rewritten_by(out)) is not None:
            raise UserError(
                f"--out {out} is removed by the next run of {root / 'dvc.yaml'}; name a folder elsewhere"
            )
    elif not (saved.home / CALIBRATION_FILE).is_file():
        raise UserError(
            f"{model} is no exported folder (no {CALIBRATION_FILE} beside the weights), so nothing is written into it; give "
            "--out DIR for a copy of the model with the new calibration"
        )
    elif (root := _rewritten_by(saved.home)) is not None:
        raise UserError(
            f"{model} is written again by the next run of {root / 'dvc.yaml'}, and the new calibration would be lost; give "
            "--out DIR for a copy of the model with it"
        )


def _rewritten_by(home: Path) -> Path | None:
    """Return the folder of the dvc.yaml whose stages write a model's folder again; None: it is its user's own."""
    home = home.resolve()
    return next(
        (
            root
            for root in home.parents
            if home.relative_to(root).parts[0] in _WRITTEN_BY_RUNS and (root / "dvc.yaml").is_file()
        ),
        None,
    )


def _write(found: Recalibrated, saved: SavedModel, origin: Encoder, out: Path | None) -> Path:
    """Write the calibration, whole or not at all, and the card that tells its thresholds."""
    from adaptive_inference.exits.layout import CALIBRATION_FILE
    from adaptive_inference.files import write_json, write_text
    from adaptive_inference.serving.card import CARD_FILE, CardPoint, card_of
    from adaptive_inference.serving.export import copy_model, write_card
    from adaptive_inference.serving.setting import usable_points

    home = saved.home if out is None else out
    if out is not None:
        copy_model(saved.home, out, found.calibration)
    else:
        if not (home / ORIGINAL).exists():  # made again, the first one stays
            write_json(home / ORIGINAL, saved.calibration)
        if (home / CARD_FILE).is_file() and not (home / ORIGINAL_CARD).exists():
            write_text(home / ORIGINAL_CARD, (home / CARD_FILE).read_text(encoding="utf-8"))
        write_json(home / CALIBRATION_FILE, found.calibration)
    card = card_of(home, [CardPoint(point) for point in usable_points(found.calibration)])
    write_card(home, replace(card, origin=origin))
    return home


def _report(found: Recalibrated, schema: Schema, file: Path, max_loss: float) -> str:
    """Return what a person is told: a table of three lines and what it means."""
    rows = found.calibration["rows"]
    lines = [
        f"{file}: {rows} rows. The last exit stands for the full model: {schema.metric} {found.full_quality:.4f}.",
        f"{'':32}{schema.metric:>12}{'points lost':>14}{'fewer layers':>15}{'fewer FLOPs':>14}  setting",
        _line("before, on these rows", found.before, _words(found.old)),
        _line("now, on these rows", found.after, _words(found.new)),
        _line("now, expected on new rows", found.held_out, "each half by the other half's choice"),
    ]
    if found.calibration["recommended"] is None:
        lines.append(f"note: no threshold loses at most {max_loss:g} points; the model answers at full depth")
    elif found.held_out.loss > max_loss:
        lines.append(
            f"note: on new rows it is expected to lose {found.held_out.loss:.2f} points, more than the {max_loss:g} asked "
            "for; give more rows, or a smaller --max-loss"
        )
    if 100 / rows > max_loss:
        lines.append(
            f"note: one of {rows} rows is {100 / rows:.2g} points, more than --max-loss {max_loss:g}; "
            + (
                f"{math.ceil(100 / max_loss)} rows are the fewest that can tell"
                if max_loss
                else "none may be lost"
            )
        )
    return "\n".join(lines)


def _line(name: str, seen: Measured, setting: str) -> str:
    flops = "-" if seen.flops_speedup is None else f"{seen.flops_speedup:.2f}x"
    return f"{name:32}{seen.quality:12.4f}{seen.loss:14.2f}{seen.layers_speedup:14.2f}x{flops:>14}  {setting}"


def _words(setting: Setting) -> str:
    if setting.threshold is None:
        return setting.rule
    return f"{setting.rule} at {setting.threshold:.4g}"
