"""Tasks and their rows: sources, splits, the schema that travels with a model, tokenisation."""
