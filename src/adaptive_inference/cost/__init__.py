"""What an answer costs: layers run, and exact FLOPs; always named, never mixed."""
