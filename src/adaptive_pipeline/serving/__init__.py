"""A model folder behind HTTP: what is asked, what is answered, what is counted."""
