"""The figures: PNG and SVG, the same records give the same bytes."""
