"""Pages of written texts: what a reader sees of each token's depth."""

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_inference.errors import UserError
from adaptive_pipeline.reporting.generation.depths import Written, depth_page, shade, write_depth_page

BLOCKS = 6


def a_text(pieces=("▁red", " <b>", "</s>"), depths=(2, 6, 3), **changes):
    given = {
        "source": "copy <script>", "target": "red & blue", "confidences": (0.9, None, 0.75), "agreed": (False, None, True),
    } | changes  # fmt: skip
    return Written(7, pieces=pieces, depths=depths, **given)


class Page(HTMLParser):
    """Tags, and of each token its text, depth, classes and what a pointer shows."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.tokens, self.within, self.words = set(), [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        given = dict(attributes)
        if tag == "span" and "token" in given.get("class", "") and "dd" in self.within:
            self.tokens.append(
                {"text": "", "depth": "", "class": given["class"], "title": given.get("title")}
            )
        if tag != "meta":
            self.within.append(tag)

    def handle_endtag(self, tag):
        self.within.pop()

    def handle_data(self, data):
        self.words += data
        if "span" in self.within and "dd" in self.within:
            self.tokens[-1]["depth" if "sub" in self.within else "text"] += data


def test_every_token_has_its_text_depth_and_confidence():
    page = Page(depth_page("FREE", BLOCKS, [a_text()]))
    assert [token["text"] for token in page.tokens] == ["▁red", " <b>", "</s>"]
    assert [token["depth"] for token in page.tokens] == ["2", "6", "3"]
    assert [token["title"] for token in page.tokens] == ["confidence 0.900", None, "confidence 0.750"]
    assert ["other" in token["class"] for token in page.tokens] == [True, False, False]
    assert "3.67 blocks per token" in page.words


def test_the_legend_has_every_depth_and_says_what_colours_mean_without_them():
    text = depth_page("FREE", BLOCKS, [])
    assert [f"> {depth} </span>" in text for depth in range(1, BLOCKS + 1)] == [True] * BLOCKS
    assert "The number behind a token says the same" in text
    assert "print-color-adjust: exact" in text


@given(words=st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=6), title=st.text(max_size=9))
def test_no_text_of_the_data_becomes_a_tag(words, title):
    count = len(words)
    usual = Page(depth_page("a", BLOCKS, [a_text()])).tags
    item = a_text(
        tuple(words), (1,) * count, source=words[0], target=words[-1], confidences=(None,) * count, agreed=(None,) * count
    )  # fmt: skip
    page = depth_page(f"</title><script>{title}", BLOCKS, [item])
    assert Page(page).tags == usual
    assert "script" not in usual
    assert "default-src 'none'" in page


@given(blocks=st.integers(2, 48))
def test_colours_go_from_light_to_dark_and_words_stay_legible(blocks):
    lights = [
        0.299 * r + 0.587 * g + 0.114 * b for r, g, b in (shade(d, blocks) for d in range(1, blocks + 1))
    ]
    assert lights == sorted(lights, reverse=True)
    page = depth_page("a", blocks, [])
    for depth, light in enumerate(lights, 1):
        dark = f'class="token dark" style="background: rgb{shade(depth, blocks)}"' in page
        assert abs((255 if dark else 34) - light) >= 100  # white on dark, near-black on light


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"depths": (2, 6)}, "3 tokens, but 2 depths"),
        ({"depths": (2, 7, 1)}, "depth 7 is none of the decoder's, which has 1 to 6"),
        ({"depths": (0, 1, 1)}, "depth 0 is none"),
    ],
)
def test_figures_that_do_not_fit_a_text_are_refused(changes, says):
    with pytest.raises(UserError, match=says):
        depth_page("a", BLOCKS, [a_text(**changes)])


def test_a_page_is_written_where_there_was_no_folder_and_twice_the_same(tmp_path):
    files = [tmp_path / name / "depths.html" for name in "ab"]
    for file in files:
        write_depth_page("a", BLOCKS, [a_text(), a_text((), (), confidences=(), agreed=())], file)
    assert files[0].read_bytes() == files[1].read_bytes()
