"""Run the command line: ``python -m adaptive_inference.cli``."""

from adaptive_inference.cli import main

raise SystemExit(main())
