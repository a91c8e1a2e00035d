"""Write ``docs/claims.md`` from the kept records of all presets.

python -m adaptive_pipeline.reporting.claims
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from adaptive_inference.errors import UserError
from adaptive_inference.files import write_text

PAGE = Path("docs/claims.md")


def main() -> None:
    """Judge, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=PAGE, help=f"page to write (default: {PAGE})")
    args = parser.parse_args()
    try:
        from adaptive_pipeline.reporting.claims.judged import read_kept_presets
        from adaptive_pipeline.reporting.claims.page import claims_page

        write_text(args.out, claims_page(read_kept_presets()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
