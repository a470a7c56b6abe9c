"""A service as it runs in production, with FastAPI: PostgreSQL, several workers, recovery in the background, probes.

    uvicorn --factory service_fastapi:make_app --workers 2 --port 8080

service_parts.py has the parts of the service, and lists its environment variables.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Response
from service_parts import running


def make_app() -> FastAPI:
    logging.basicConfig(level=logging.INFO, format="%(process)d %(name)s: %(message)s")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with running() as receiver:
            app.state.receiver = receiver
            # Set up here, because the secret is known only now. `running` has entered the receiver, and closes it.
            app.include_router(receiver.fastapi_router("/basiq"))
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/healthz")
    async def alive() -> Response:
        return Response()

    @app.get("/readyz")
    async def ready() -> Response:
        return Response(status_code=200 if await app.state.receiver.is_ready() else 503)

    return app


if __name__ == "__main__":
    uvicorn.run(make_app(), host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
