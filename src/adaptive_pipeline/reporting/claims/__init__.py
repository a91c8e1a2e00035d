"""The claims of the papers, held against the kept records: ``python -m adaptive_pipeline.reporting.claims``."""
