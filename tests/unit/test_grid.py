"""Which cells there are, and where the files of a cell lie."""

import re
from itertools import product
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_inference.errors import UserError
from adaptive_inference.exits.layout import RUN_CALIBRATION, RUN_EVALUATION, RUN_MODEL
from adaptive_pipeline.dvc_graph import CHECK
from adaptive_pipeline.families import FAMILIES
from adaptive_pipeline.grid import TRAINING_STAGES, Cell, Grid, TextGrid, as_name
from adaptive_pipeline.params import load_params
from adaptive_pipeline.runs import layout
from adaptive_pipeline.runs.records import RECORD_FILE

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
names = st.from_regex(r"[a-c0][a-c0_-]{0,3}", fullmatch=True)
axes = st.lists(names, min_size=1, max_size=3, unique=True).map(tuple)
grids = st.builds(
    Grid, axes, axes, st.lists(st.integers(0, 3), min_size=1, max_size=2, unique=True).map(tuple), axes
)


@given(grids)
def test_a_grid_holds_its_cells_and_those_that_serve_all_methods_and_no_other(grid):
    cells = list(grid.cells())
    assert (
        len(cells)
        == len(set(cells))
        == len(grid.tasks) * len(grid.backbones) * len(grid.seeds) * len(grid.methods)
    )
    for cell in cells:
        assert cell in grid
        assert Cell(cell.task, cell.backbone, cell.seed) in grid
        assert Cell(cell.task, cell.backbone, 9, cell.method) not in grid
        assert Cell(cell.task, cell.backbone, cell.seed, "other") not in grid


@given(grids)
def test_cells_that_dvc_would_take_for_one_are_refused_whichever_stage_they_are_of(grid):
    shared = product(grid.tasks, grid.backbones, grid.seeds)
    stages = [cell.name for cell in grid.cells()], ["-".join(map(str, cell)) for cell in shared]
    if all(len(set(found)) == len(found) for found in stages):
        grid.check_names()
    else:
        with pytest.raises(UserError, match="two cells would be named"):
            grid.check_names()


text_grids = st.builds(TextGrid, axes, axes, st.just((0, 1)), axes, axes)


@settings(deadline=None)
@given(text_grids)
def test_a_text_grid_holds_a_cell_per_method_and_per_training_and_tells_them_apart(grid):
    for cells, training, others in (
        (list(grid.cells()), False, grid.trainings),
        (list(grid.trained()), True, grid.methods),
    ):
        assert len(cells) == len(set(cells))
        for cell in cells:
            assert grid.has(cell, training=training)
            assert grid.has(Cell(cell.task, cell.backbone, cell.seed), training=training)
            assert not grid.has(Cell(cell.task, cell.backbone, 9, cell.method), training=training)
            assert grid.has(cell, training=not training) == (cell.method in others)


@settings(deadline=None)
@given(text_grids)
def test_text_cells_of_one_name_are_refused(grid):
    if all(
        len({cell.name for cell in cells}) == len(cells)
        for cells in (list(grid.cells()), list(grid.trained()))
    ):
        grid.check_names()
    else:
        with pytest.raises(UserError, match="of `generation`"):
            grid.check_names()


def test_every_stage_has_its_line_in_the_table_of_families():
    assert set(FAMILIES) == set(STAGES) - {CHECK}


@given(st.text(max_size=6) | names)
def test_a_name_is_one_folder_and_one_word_of_a_command_or_refused_in_one_line(name):
    if re.fullmatch(r"\w[\w-]*", name, re.ASCII) and not name.startswith("_"):
        assert as_name(name) == name
        assert Path("x", name).resolve().parent == Path("x").resolve()
        return
    with pytest.raises(UserError, match="becomes a folder") as refused:
        as_name(name)
    assert "\n" not in str(refused.value)


def test_the_cells_of_the_params_come_in_their_order():
    params = load_params(ROOT / "presets/smoke.yaml")
    cells = list(params.grid.cells())
    assert [cell.method for cell in cells] == list(params.methods)
    assert cells[0].name == "tiers-tiny-full-0"


def path_of(out):
    """Return the path of an output; one with options is a mapping of one key."""
    return next(iter(out)) if isinstance(out, dict) else out


@pytest.mark.parametrize("stage", sorted(layout.FOLDERS))
def test_a_stage_reads_and_writes_where_dvc_yaml_says(stage):
    cell = Cell("T", "B", 7, "M" if {"method", "scores", "training"} & set(STAGES[stage]["matrix"]) else "")
    fill = {"task": "T", "backbone": "B", "model": "B", "seed": "7", "pruned_body": "P"}
    fill |= dict.fromkeys(("method", "scores", "training"), "M")
    deps, outs = (
        {re.sub(r"\$\{(?:item\.)?(\w+)\}", lambda found: fill[found[1]], path) for path in paths}
        for paths in (STAGES[stage]["deps"], map(path_of, STAGES[stage]["outs"]))
    )
    assert layout.out_path(stage, cell).as_posix() in outs
    script = (ROOT / "pipeline_steps" / f"{stage}.py").read_text()
    beside = {
        layout.file_path(name, cell).as_posix() for name in layout.FILES if f'files=("{name}",)' in script
    }
    beside.add(layout.timings_path(stage, cell).as_posix())
    assert outs - {layout.out_path(stage, cell).as_posix()} <= beside
    inputs = re.findall(r'"(\w+)"', re.search(r"inputs=\((.*?)\)", script)[1])
    declared = [other for name in inputs for other in layout.STAND_FOR.get(name, (name,))]
    read = {layout.input_path(name, cell, "P").as_posix() for name in declared if name in layout.INPUTS}
    assert {dep for dep in deps if dep.startswith("runs/")} == read


def test_the_library_finds_a_methods_run_where_its_stages_write_it():
    cell = Cell("T", "B", 7, "M")
    run = cell.folder(layout.RUNS)
    assert run / RUN_MODEL == layout.input_path("model", cell)
    assert run / RUN_CALIBRATION == layout.input_path("calibration", cell)
    assert run / RUN_EVALUATION == layout.out_path("evaluate_batch1", cell) / RECORD_FILE


def test_every_stage_is_checked_first_and_carries_no_name_into_a_shell_unquoted():
    search = yaml.safe_load((ROOT / "search/dvc.yaml").read_text())["stages"]
    assert set(TRAINING_STAGES) < set(STAGES)
    for name, stage in (STAGES | search).items():
        assert (".params_checked" in stage["deps"]) != (name == "check_params")
        assert not re.search(r"\$\{", re.sub(r"'[^']*'|\$\{item\}", "", stage["cmd"]))
