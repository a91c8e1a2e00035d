"""Which rows of a split are decoded where not all are."""

from __future__ import annotations

from adaptive_inference.tasks.text_schema import TextExample
from adaptive_pipeline.decoding.at_hand import in_random_order


def test_the_first_rows_are_drawn_from_all_of_a_sorted_file_and_always_the_same():
    rows = [TextExample(place, f"article {place // 50}", "answer", ()) for place in range(500)]
    order = in_random_order(rows, "evaluation")
    assert order == in_random_order(rows, "evaluation") != in_random_order(rows, "calibration")
    assert sorted(order, key=lambda row: row.id) == rows
    articles = [row.source for row in order[:100]]
    assert len(set(articles)) == 10
    assert max(map(articles.count, articles)) <= 25
