"""The HTTP API: every route, the error handlers, the lifespan."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from emulator.http import ApiKeyMiddleware, errors
from emulator.lifespan import Lifespan
from emulator.routes import Downloads, Metrics, deepinfra, docs, probes, prompts
from handler import HandlerError, Settings


def create_app(
    settings: Settings, on_warm: Callable[[], None] = lambda: None, on_end: Callable[[], None] = lambda: None
) -> Starlette:
    """The application. Its `state.adapter` is the handler behind the routes, its `state.lifespan` the server's life.

    `on_warm` is called once it can take prompts, `on_end` when it has to end: then `state.lifespan.exit_code` is set.
    Raises BadSettings or BadWorkflow.
    """
    server = Lifespan(settings, on_warm, on_end)
    adapter = server.adapter

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        server.start()
        yield
        await server.end()

    app = Starlette(
        routes=[
            Route("/health", probes.health),
            Route("/ready", probes.ready),
            Route("/models", probes.models),
            Route("/metrics", Metrics(adapter).metrics),
            Route("/prompt", prompts.prompt, methods=["POST"]),
            Route("/download", Downloads().download, methods=["POST"]),
            Route("/interrupt", prompts.interrupt, methods=["POST"]),
            *(
                Route(f"/{folder}/{route}", prompts.workflow(route), methods=["POST"])
                for folder in ("workflow", "workflows")
                for route in adapter.service.workflows
            ),
            *(
                [Route(deepinfra.ROUTE, deepinfra.infer, methods=["POST"])]
                if deepinfra.offered(adapter.service)
                else []
            ),
            *(docs.routes() if settings.docs else ()),
        ],
        exception_handlers={
            HandlerError: errors.handler_error,
            HTTPException: errors.http_error,
            Exception: errors.bug,
        },
        middleware=[Middleware(ApiKeyMiddleware, settings=settings)],
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.adapter = adapter
    app.state.lifespan = server
    return app
