"""Time what orchestration costs where nothing has to be computed.

Run it in a project in which everything is computed (`make run` before). Two figures, each also as a ratio to a plain
`dvc status` of the same project: a run with nothing to do, and a run in which every stage is scheduled but DVC finds each
already computed. The bounds of the project are 20 s for the first and 3 s per stage for the second. The last line is one
JSON object.

    python benchmarks/orchestration.py
    python benchmarks/orchestration.py --cores 1
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

RECEIPTS = Path("receipts")
NO_OP_BOUND = 20.0
STAGE_BOUND = 3.0


def seconds(*command: str) -> float:
    """Return how long a command took; stop if it failed."""
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cores", default="all", help="as for snakemake (default: all)")
    args = parser.parse_args()
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    if not any(RECEIPTS.glob("*.json")):
        sys.exit("nothing is computed here; run `make run` first")

    status = seconds("dvc", "status")
    no_op = seconds("snakemake", "--cores", args.cores)
    shutil.rmtree(RECEIPTS)
    began = time.time()
    all_scheduled = seconds("snakemake", "--cores", args.cores)
    stages = len(list(RECEIPTS.glob("*.json")))  # of the graph as it is: others have no receipt now
    logs = [log for log in Path("logs").glob("*.log") if log.stat().st_mtime >= began]
    executed = [log.stem for log in logs if "Running stage" in log.read_text(errors="replace")]
    if executed:
        sys.exit(f"not everything was computed; executed: {', '.join(executed)}")

    per_stage = (all_scheduled - no_op) / stages
    figures = {
        "stages": stages,
        "dvc_status_s": round(status, 2),
        "no_op_s": round(no_op, 2),
        "no_op_over_dvc_status": round(no_op / status, 2),
        "computed_stage_s": round(per_stage, 2),
        "computed_stage_over_dvc_status": round(per_stage / status, 2),
        "within_bounds": no_op < NO_OP_BOUND and per_stage <= STAGE_BOUND,
    }
    print(f"a run with nothing to do: {no_op:.1f} s (bound {NO_OP_BOUND:.0f} s)")
    print(f"an already computed stage: {per_stage:.1f} s, of {stages} (bound {STAGE_BOUND:.0f} s)")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
