"""The HTTP side: ``POST /invocations`` in MLflow's form, ``GET /health``, ``GET /metrics``.

MLflow's own scoring server runs the same model (`served_model`), but drops fields and params that it does not know before a
model sees them, and has no place to ask for counters: that is why there is this one.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from adaptive_inference.errors import UserError
from adaptive_pipeline.serving.request import MAX_BYTES, TooLarge, read_request
from adaptive_pipeline.serving.service import Service

#: Requests that may wait for the model; those beyond are told to come back.
MAX_WAITING = 256


def make_app(service: Service, max_waiting: int = MAX_WAITING) -> Starlette:
    """Return the application; see `service.Service`."""
    waiting = 0

    async def invocations(http: HttpRequest) -> Response:
        nonlocal waiting
        start = time.perf_counter()
        if waiting >= max_waiting:
            reply = _refusal(503, f"{waiting} requests wait for the model already; send it again in a second")
            reply.headers["Retry-After"] = "1"
        else:
            waiting += 1
            try:
                reply = await _answer(http, service)
            finally:
                waiting -= 1
        service.counters.replied(reply.status_code, 1000 * (time.perf_counter() - start))
        return reply

    async def health(_: HttpRequest) -> Response:
        return JSONResponse({"status": "ok"})

    async def metrics(_: HttpRequest) -> Response:
        return JSONResponse(service.report() | {"waiting": waiting})

    routes = [
        Route("/invocations", invocations, methods=["POST"]),
        Route("/health", health),
        Route("/ping", health),
        Route("/metrics", metrics),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _no_such_page})


async def _answer(http: HttpRequest, service: Service) -> Response:
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        return _refusal(415, "send the request as JSON, with the header Content-Type: application/json")
    try:
        asked = read_request(await _body(http), service.schema)
        answers = [await asyncio.wrap_future(service.submit(text, asked.options)) for text in asked.texts]
    except TooLarge as error:
        return _refusal(413, str(error))
    except UserError as error:
        return _refusal(400, str(error))
    return JSONResponse({"predictions": answers})


async def _body(http: HttpRequest) -> bytes:
    """Return the body; no more of it is held than a request may have."""
    parts, size = [], 0
    async for part in http.stream():
        size += len(part)
        if size > MAX_BYTES:
            raise TooLarge(f"the request has more than {MAX_BYTES} bytes; send several smaller ones")
        parts.append(part)
    return b"".join(parts)


def _refusal(status: int, message: str) -> JSONResponse:
    """Return an error in the form of MLflow's."""
    codes = {413: "INVALID_PARAMETER_VALUE", 503: "TEMPORARILY_UNAVAILABLE"}
    return JSONResponse({"error_code": codes.get(status, "BAD_REQUEST"), "message": message}, status)


async def _no_such_page(http: HttpRequest, error: Any) -> Response:
    known = "POST /invocations, GET /health, GET /metrics"
    reply = _refusal(
        error.status_code, f"{http.method} {http.url.path[:80]} is not answered here; {known} are"
    )
    reply.headers.update(error.headers or {})
    return reply
