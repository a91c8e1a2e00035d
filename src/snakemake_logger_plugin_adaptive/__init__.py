"""Snakemake finds a logger by its package's name, ``snakemake_logger_plugin_*``; this one is `adaptive_pipeline.console`."""

from adaptive_pipeline.console import LogHandler

__all__ = ["LogHandler"]
