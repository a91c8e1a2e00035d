"""Serve a model folder over HTTP, to this machine only.

    python -m adaptive_pipeline.serving results/model --port 5000

Prints one line when it answers; refusals go to the clients, drift and faults to standard error. `docs/deploying.md` says
what to send.
"""

from __future__ import annotations

import argparse
import json
import logging
import socket
import sys
from pathlib import Path

from adaptive_inference.cli.options import add_own_code
from adaptive_inference.errors import UserError
from adaptive_inference.exits.layout import open_model

HOST = "127.0.0.1"
BACKLOG = 2048  #: connections that wait to be taken, as uvicorn's own


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model", nargs="?", type=Path, default=Path("results/model"), help="folder (default: results/model)"
    )
    parser.add_argument("--port", type=int, default=5000, help="where to listen (default: 5000)")
    add_own_code(parser)
    return parser.parse_args()


def hold(port: int) -> socket.socket:
    """Return a socket that holds a port of this machine; port 0 is any free one.

    Raises
    ------
    UserError
        The port cannot be used.
    """
    # asyncio sends at once (TCP_NODELAY) only where the protocol is named; else a reply waits 40 ms for its own first packet
    server = socket.socket(proto=socket.IPPROTO_TCP)
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((HOST, port))
    except (OSError, OverflowError) as error:
        server.close()
        why = getattr(error, "strerror", None) or error
        raise UserError(
            f"port {port} cannot be used ({why}); ports are 0 (any free one) to 65535: stop what listens there, or take "
            "another, e.g. make serve PORT=5001"
        ) from None
    return server


def serve(model: Path, port: int, own_code: list[str]) -> None:
    """Load a model and answer until stopped.

    Raises
    ------
    UserError
        The port cannot be used, or the folder holds no model.
    """
    open_model(model)  # before torch is loaded, which takes longer
    with hold(port) as server:
        import uvicorn

        from adaptive_inference import load_own_code, load_predictor
        from adaptive_pipeline.serving.app import make_app
        from adaptive_pipeline.serving.service import Service

        for source in own_code:
            load_own_code(source)
        service = Service(load_predictor(model))
        address = f"http://{HOST}:{server.getsockname()[1]}"
        body = json.dumps({"inputs": ["a text"] if len(service.schema.text) == 1 else [["one", "two"]]})
        server.listen(BACKLOG)  # so that whoever reads the address is answered, if a moment later
        print(f"Serving {model} at {address}; stop it with Ctrl-C. Try:")
        print(f"  curl {address}/invocations -H 'Content-Type: application/json' -d '{body}'")
        print(f"  curl {address}/metrics", flush=True)
        config = uvicorn.Config(make_app(service), log_level="warning", access_log=False, lifespan="off")
        try:
            uvicorn.Server(config).run([server])
        except KeyboardInterrupt:
            pass
        finally:
            service.close()


def main() -> None:
    """Serve, or say why not."""
    args = parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s", datefmt="%H:%M:%S")
    try:
        serve(args.model, args.port, args.own_code)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
