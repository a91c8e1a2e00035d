"""Models that write text: what they read, how they learn, what they cost, how they are used and judged."""
