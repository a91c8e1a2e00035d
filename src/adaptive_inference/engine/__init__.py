"""Engines that really stop at the exit."""
