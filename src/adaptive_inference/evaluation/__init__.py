"""What a run is worth: quality, cost in layers and FLOPs, latency, curves, intervals."""
