"""``report.html`` opens on the result, and ``metrics.json`` tells DVC the same figures."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from html.parser import HTMLParser

import pytest
import yaml
from synthetic_records import PROJECT, invented_params, write_run

from adaptive_inference.files import read_json
from adaptive_pipeline.dvc_graph import CHECK
from adaptive_pipeline.reporting.choice import recommend
from adaptive_pipeline.reporting.figures.captions import CAPTIONS, ORDER
from adaptive_pipeline.reporting.frame import collect
from adaptive_pipeline.reporting.goal_rows import goal_rows
from adaptive_pipeline.reporting.page import GRAPH
from adaptive_pipeline.reporting.report import OUTPUTS, make_report

DVC = yaml.safe_load((PROJECT / "dvc.yaml").read_text())


class Page(HTMLParser):
    """What a reader meets, in order: headings, tables and figures, each with whether a fold hides it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.met, self.folds, self.tags = [], 0, set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.folds += tag == "details"
        if tag in ("h1", "table", "img"):
            self.met.append((tag, self.folds > 0))

    def handle_endtag(self, tag):
        self.folds -= tag == "details"

    def handle_data(self, data):
        if self.met and self.met[-1] == ("h1", False):
            self.met[-1] = (data, False)


@pytest.fixture(scope="module")
def params():
    return invented_params(seeds=[0])


@pytest.fixture(scope="module")
def out(tmp_path_factory, params):
    root = tmp_path_factory.mktemp("reported")
    write_run(root / "runs", params, answers=True)
    make_report(root / "runs", params, root / "results")
    return root / "results"


@pytest.fixture(scope="module")
def text(out):
    return (out / "report.html").read_text()


def test_recommendation_and_main_table_come_before_any_figure_and_need_no_click(text):
    met = Page(text).met
    assert met[:3] == [("Recommendation", False), ("Results", False), ("table", False)]
    headings = [name for name, _ in met if name not in ("table", "img")]
    assert headings[:3] == ["Recommendation", "Results", "Figures"]
    assert headings[-1] == "How it was computed"
    assert not any(folded for name, folded in met if name == "img")
    assert met.index(("img", False)) > met.index(("Figures", False))


def test_it_is_one_file_without_scripts_that_loads_nothing(text):
    assert "script" not in Page(text).tags
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]{5})', text))
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', text)
    assert "default-src 'none'" in text


def test_every_figure_stands_there_once_with_its_caption_in_the_told_order(text, out):
    drawn = {file.stem for file in (out / "figures").glob("*.svg")}
    shown = re.findall(r'<figure id="([^"]+)">', text)
    assert len(shown) == len(drawn) == len(set(shown))
    assert set(shown) == drawn
    kinds = [name.removeprefix("tiers-minilm-").partition("-")[0] for name in shown]
    assert kinds == sorted(kinds, key=ORDER.index)
    captions = re.findall(r"<figcaption>(.+?) <small>", text)
    assert captions == [CAPTIONS[kind].replace("'", "&#x27;") for kind in kinds]


def test_the_stages_it_names_and_what_they_read_are_those_of_dvc_yaml():
    stages = {name: body for name, body in DVC["stages"].items() if name != CHECK}
    outs = {
        name: [_pattern(out) for out in _paths(body["outs"])]
        for name, body in stages.items()
        if "outs" in body
    }
    for name, body in stages.items():
        deps = [_pattern(path) for path in _paths(body["deps"]) if path.startswith("runs")]
        there = {other: paths for other, paths in outs.items() if _grid(name) in ("", _grid(other))}
        read = set().union(*(_written_by(dep, there) for dep in deps))
        if any("${pruned_body}" in path for path in _paths(body["deps"])):
            read &= {"prepare_data", "train_adapler"}  # the body is one of its methods
        assert set(GRAPH[name][0]) == read - {name}, name
    assert set(GRAPH) == set(stages)


def _grid(stage):
    """Return the axis of models that tells the two grids apart; empty for a stage of neither."""
    return next(
        (axis for axis in ("backbone", "model") if axis in DVC["stages"][stage].get("matrix", {})), ""
    )


def _paths(items):
    return [next(iter(item)) if isinstance(item, dict) else item for item in items]


def _pattern(path):
    return re.sub(r"\$\{.+?\}", "*", path).split("/")


def _written_by(dep, outs):
    """Return the stages of which an output holds a dependency, or lies in it; the method by name before any."""
    meet = {
        (name, all(a == b for a, b in zip(out, dep, strict=False)))
        for name, paths in outs.items()
        for out in paths
        if all(fnmatch(a, b) or fnmatch(b, a) for a, b in zip(out, dep, strict=False))
    }
    return {name for name, exact in meet if exact} or {name for name, _ in meet}


# ---- what DVC shows --------------------------------------------------------------------------------------------------


def test_dvc_is_told_of_what_make_tables_writes():
    assert "results" in DVC["stages"]["make_tables"]["outs"]
    told = [*DVC["metrics"], *DVC["plots"]]
    assert told == ["results/metrics.json", "results/figures"]
    assert {path.removeprefix("results/") for path in told} <= set(OUTPUTS)


def test_metrics_are_flat_figures_of_the_methods_at_the_goal_and_of_the_recommended_one(out, params):
    metrics = read_json(out / "metrics.json")
    assert all(isinstance(value, float | str) for value in metrics.values())
    results = collect(out.parent / "runs", params)
    (one,), (choice,) = results.each, recommend(results)
    rows = {item.row.method: item.row for item in goal_rows(one)}
    told = {key.split(".")[2] for key in metrics}
    assert told == {"full", "recommended", *rows}
    assert metrics["tiers.minilm.sweet.loss_points"] == pytest.approx(
        -100 * rows["sweet"].quality_difference, abs=1e-4
    )
    assert metrics["tiers.minilm.sweet.milliseconds"] == pytest.approx(rows["sweet"].milliseconds, rel=1e-5)
    assert metrics["tiers.minilm.recommended.method"] == choice.marked.method
    assert metrics["tiers.minilm.recommended.quality"] == pytest.approx(choice.marked.quality, rel=1e-5)


def test_what_was_not_measured_has_no_metric(tmp_path):
    params = invented_params(seeds=[0], evaluation={"timed_seeds": []})
    write_run(tmp_path / "runs", params)
    make_report(tmp_path / "runs", params, tmp_path / "results")
    metrics = read_json(tmp_path / "results/metrics.json")
    assert "tiers.minilm.sweet.quality" in metrics
    assert not [key for key in metrics if "wallclock" in key or "milliseconds" in key]
