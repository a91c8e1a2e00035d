"""Models that write text: their data, training, decoding with early exits, and what it gives. Loads no torch by itself."""
