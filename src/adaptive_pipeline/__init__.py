"""The experiment: params, grid, runs, tracking and reports around `adaptive_inference`."""
