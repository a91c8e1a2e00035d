"""Published results: what papers print, as data, and beside ours."""
