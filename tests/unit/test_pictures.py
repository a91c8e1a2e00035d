"""Pictures of examples: what a reader sees of a text's way through the layers."""

from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from adaptive_inference.evaluation.explained import Line, Picture
from adaptive_pipeline.reporting.pictures import TOKENS, picture_page, strength, write_pictures

KEPT = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 1], [1, 0, 0, 1, 0]], bool)
SCORES = np.array([[0.5, 0.1, 0.1, 0.2, 0.1], [0.4, 0, 0.2, 0.3, 0.1], [0.7, 0, 0, 0.3, 0]])


def picture(
    tokens=("[CLS]", "a", "<b>&", "fine", "[SEP]"), kept=KEPT, scores=SCORES, rationale=(3,), **changes
):
    words_N = np.array([token not in ("[CLS]", "[SEP]") for token in tokens])
    marked_N = np.isin(np.arange(len(tokens)), rationale)
    lines = tuple(Line(f"layer {k}", *pair) for k, pair in enumerate(zip(scores, kept, strict=True), 1))
    given = {"label": "good", "prediction": "<i>bad</i>", "rationale_N": marked_N} | changes
    return Picture(7, tuple(tokens), words_N=words_N, lines=lines, **given)


class Spans(HTMLParser):
    """Tags, and for each span its text, class and whether it is underlined."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.spans, self.heading, self.within = set(), [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag not in ("meta",):
            self.within.append(tag)
        if tag == "span":
            self.spans.append({"text": "", "class": dict(attributes).get("class"), "underlined": False})

    def handle_endtag(self, tag):
        self.within.remove(tag)

    def handle_data(self, data):
        if "span" in self.within:
            self.spans[-1]["text"] += data
            self.spans[-1]["underlined"] |= "u" in self.within
        if "h1" in self.within:
            self.heading += data


def test_a_page_has_every_token_in_every_line_and_fades_what_is_gone():
    item = picture()
    page = Spans(picture_page(item))
    assert [span["text"] for span in page.spans] == [*item.tokens] * len(item.lines)
    assert [span["class"] != "gone" for span in page.spans] == KEPT.flatten().tolist()
    assert [span["text"] for span in page.spans if span["underlined"]] == ["fine"] * len(item.lines)
    assert page.heading == "Example 7: good, predicted <i>bad</i>"


@given(tokens=st.lists(st.text(min_size=1, max_size=12), min_size=2, max_size=6))
def test_no_text_of_the_data_becomes_a_tag(tokens):
    count = len(tokens)
    item = picture(
        tokens, np.ones((1, count), bool), np.ones((1, count)), rationale=(1,), label="</h1><script>"
    )
    page = picture_page(item)
    usual = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "p",
        "table",
        "tr",
        "th",
        "td",
        "span",
        "u",
    }
    assert Spans(page).tags == usual
    assert "src=" not in page.replace("-src", "")
    assert page.startswith("<!doctype html>")


@given(scores=arrays(float, 5, elements=st.floats(0, 1)), kept=arrays(bool, 5))
def test_colours_follow_the_scores_of_a_line(scores, kept):
    found = strength(picture(), Line("layer 1", scores, kept))
    assert ((found >= 0) & (found <= 1)).all()
    assert (found[~kept] == 0).all()
    there = np.argsort(scores[kept])
    assert (np.diff(found[kept][there]) >= 0).all()
    if scores[kept].max(initial=0) > 0:
        assert found.max() == 1


def test_a_special_token_does_not_pale_the_words():
    line = Line("attention", np.array([0.9, 0.01, 0.04, 0.02, 0.03]), np.ones(5, bool))
    assert strength(picture(), line) == pytest.approx([1, 0.25, 1, 0.5, 0.75])


def test_files_open_and_are_equal_bytes_for_equal_pictures(tmp_path):
    long = [f"token{place}" for place in range(143)]
    items = [
        picture(),
        picture(["$x$", "$"], np.ones((2, 2), bool), np.ones((2, 2)), rationale_N=None),
        picture(long, np.ones((6, 143), bool), np.ones((6, 143))),
    ]
    for count, item in enumerate(items):
        folders = [tmp_path / f"{count}-{again}" for again in "ab"]
        for folder in folders:
            write_pictures([item], folder)
        assert sorted(file.name for file in folders[0].iterdir()) == ["7.html", "7.png"]
        for name in ("7.html", "7.png"):
            assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    pixels = [matplotlib.image.imread(tmp_path / f"{count}-a" / "7.png") for count in range(3)]
    widest = 1.2 + 0.17 * TOKENS
    assert pixels[0].shape[1] < pixels[2].shape[1] <= 160 * (widest + 0.2)
    assert "token142" in (tmp_path / "2-a" / "7.html").read_text()


def test_an_image_shows_what_stays_in_colour_and_what_is_gone_in_grey(tmp_path):
    write_pictures([picture()], tmp_path)
    pixels = (matplotlib.image.imread(tmp_path / "7.png")[..., :3] * 255).round().astype(int)
    colours = np.unique(pixels.reshape(-1, 3), axis=0)
    for wanted in ((0, 114, 178), (240, 240, 240), (176, 58, 0)):
        assert np.abs(colours - wanted).max(1).min() <= 1


def test_no_pictures_leave_an_empty_folder(tmp_path):
    write_pictures([], tmp_path / "pictures")
    assert list((tmp_path / "pictures").iterdir()) == []
