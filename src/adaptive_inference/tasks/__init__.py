"""What a task is: its schema, its rows as tensors, how it is scored."""
