"""What the docs promise: links lead somewhere, the examples of extending.md are what they say."""

from __future__ import annotations

import re

import numpy as np
import pytest
from synthetic_records import PROJECT

PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_relative_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.S))
    for link in links:
        if not re.match(r"[a-z]+:|#", link):
            assert (page.parent / link.partition("#")[0]).exists(), (
                f"{page.name} links to {link}, which is not there"
            )


def example(title: str) -> dict:
    text = (PROJECT / "docs" / "extending.md").read_text()
    section = text[text.index(f"## {title}") :]
    namespace: dict = {"__name__": "example"}
    exec(re.search(r"```python\n(.*?)```", section, re.S)[1], namespace)
    return namespace


def test_the_example_rule_is_a_rule():
    rule = example("An exit rule")["RULE"]
    logits = np.random.default_rng(0).normal(0, 3, (50, 3, 4))
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(rule.score(logits, None), (probabilities**2).sum(-1))
    exits = rule.exit_indices(logits, None, None, rule.grid(4, 20, 3))
    assert (exits[0] == 0).all()
    assert (exits[-1] == 2).all()
    assert (np.diff(exits.mean(1)) >= 0).all()
    assert (rule.online(0.5).leave(0, logits[:, 0]) == (rule.score(logits[:, 0], None) >= 0.5)).all()


def test_the_example_objective_is_an_objective():
    torch = pytest.importorskip("torch")
    from adaptive_inference.exits.forward import ExitAnswer
    from adaptive_inference.settings.training import MethodTraining

    objective = example("An objective")["OBJECTIVE"](MethodTraining(gradient="blockwise"))
    assert objective.gradient == "blockwise"
    logits, labels = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])
    log_probabilities = torch.log_softmax(logits, -1)
    expected = -(0.9 * log_probabilities[0, 0] + 0.1 * log_probabilities[0].mean())
    torch.testing.assert_close(objective.exit_loss(ExitAnswer(1, logits), labels), expected)


# ---- pages -----------------------------------------------------------------------------------------------------------


def text_of(page: str) -> str:
    return (PROJECT / "docs" / page).read_text()


def test_the_index_leads_to_every_page():
    pages = {page.relative_to(PROJECT / "docs") for page in (PROJECT / "docs").glob("*.md")}
    pages |= {page.relative_to(PROJECT / "docs") for page in (PROJECT / "docs/methods").glob("*.md")}
    assert [
        page for page in pages if page.name != "index.md" and f"({page})" not in text_of("index.md")
    ] == []


def test_the_page_on_presets_has_every_preset_and_leads_to_every_kept_result():
    named = set(re.findall(r"^\| `([\w-]+)` \|", text_of("presets.md"), re.M))
    assert named == {file.stem for file in (PROJECT / "presets").glob("*.yaml")}
    linked = set(re.findall(r"\(results/([\w-]+)/README\.md\)", text_of("presets.md")))
    assert linked == {folder.parent.name for folder in (PROJECT / "docs/results").glob("*/README.md")}


def test_the_page_on_deploying_lists_the_files_of_a_model_and_its_python_answers(
    tmp_path, monkeypatch, capsys
):
    from adaptive_inference.serving.export import export

    page = text_of("deploying.md")
    folder = page.partition("## The folder")[2].partition("\n## ")[0]
    export(PROJECT / "tests/unit/saved_models/format1/model", tmp_path / "results/model")
    listed = {
        name for line in re.findall(r"^\| (`.*?) \|", folder, re.M) for name in re.findall("`(.*?)`", line)
    }
    assert listed == {file.name for file in (tmp_path / "results/model").iterdir()}
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", page, re.S)[1], {})
    assert capsys.readouterr().out.count("\n") >= 3
