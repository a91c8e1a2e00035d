"""The tables: CSV to compute with, Markdown to read, LaTeX to print."""
