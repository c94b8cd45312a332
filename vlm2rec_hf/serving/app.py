"""The FastAPI application: routes, their documentation, and what starts and ends with them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from ..recommending.recommender import Recommender
from ..version import __version__
from .engine import Engine
from .guard import RETRY_AFTER_S, Guard, Refused, log_line
from .metrics import Metrics
from .schemas import (
    ClicksAnswer,
    ClicksRequest,
    DeletedAnswer,
    ErrorAnswer,
    HealthAnswer,
    Id,
    ItemAnswer,
    ListAnswer,
    PutItemRequest,
    RecommendRequest,
    SimilarRequest,
)
from .service import Service
from .settings import MEGABYTE, ServerSettings

ItemId = Annotated[Id, Path(description="Of the item; a slash in it may stand as it is.")]
UserId = Annotated[Id, Path(description="Of the user, in the dataset or new.", examples=["u0001"])]
_SAID = {
    400: "The body is no JSON.", 401: "No token, or a wrong one.", 408: "The body came too slowly.",
    413: "The body or an image is too large.", 422: "What is asked for cannot be done; `detail` says why.",
    503: "Too much to do; come again after `Retry-After` seconds.", 504: "The deadline passed.",
}  # fmt: skip
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text} for status, text in _SAID.items()
}
_CHANGES: dict[int | str, dict[str, Any]] = {
    **_ERRORS, 409: {"model": ErrorAnswer, "description": "This server changes no items."}
}  # fmt: skip
_MISSING: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "There is no such item."}}


def create_app(
    recommender: Recommender,
    settings: ServerSettings | None = None,
    *,
    log: Callable[[dict[str, Any]], None] = log_line,
) -> FastAPI:
    """A recommender behind HTTP, as an ASGI application.

    Args:
        recommender: any; items can be put in if it is an encoder with an index on the disk.
        settings: limits; the defaults if not given.
        log: takes a mapping per request, without anything that users sent; JSON on standard error by default.

    Example:
        ```python
        from vlm2rec_hf import open_recommender
        from vlm2rec_hf.serving.app import create_app

        app = create_app(open_recommender("runs/quickstart"))  # doctest: +SKIP
        ```
    """
    settings = settings or ServerSettings()
    metrics = Metrics()
    engine = Engine(recommender, settings.kv_memory_mb * MEGABYTE)
    engine.warm_up()
    service = Service(engine, settings, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        log({"event": "ready", **service.health()})
        yield
        await service.close()
        log({"event": "ended"})

    app = FastAPI(
        title="vlm2rec", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        summary="Recommendations after histories of items, from texts, images and ids.",
    )  # fmt: skip
    app.add_middleware(Guard, settings=settings, metrics=metrics, log=log)
    app.add_exception_handler(Refused, _refused(metrics))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.state.service = service
    _add_lists(app, service)
    _add_changes(app, service)
    _add_state(app, service)
    if settings.token_file is not None:
        _document_tokens(app)
    return app


def _add_lists(app: FastAPI, service: Service) -> None:
    @app.post("/recommend", response_model=ListAnswer, responses=_ERRORS, tags=["lists"])
    async def recommend(request: RecommendRequest) -> Response:
        """The best next items after a history."""
        return JSONResponse(await service.recommend(request))

    @app.post("/similar", response_model=ListAnswer, responses=_ERRORS, tags=["lists"])
    async def similar(request: SimilarRequest) -> Response:
        """The items most like an item, known or new."""
        return JSONResponse(await service.similar(request))

    @app.get("/users/{user_id:path}/recommendations", response_model=ListAnswer, responses=_ERRORS, tags=["users"])
    async def for_user(
        user_id: UserId,
        k: Annotated[int, Query(ge=1)] = 10,
        filter: Annotated[str | None, Query(description="A condition, as JSON.", examples=['{"stock": 1}'])] = None,
        group_by: Annotated[str | None, Query(max_length=512)] = None,
        diversity: Annotated[float, Query(ge=0, le=1)] = 0.0,
        view_weights: Annotated[str | None, Query(examples=["text=1,image=0.5"])] = None,
        exclude_seen: bool = True,
        explain: bool = False,
    ) -> Response:
        """The best next items for a user: after the dataset's history and the clicks since."""
        options = {
            "filter": filter, "group_by": group_by, "diversity": diversity, "view_weights": view_weights,
            "exclude_seen": exclude_seen, "explain": explain,
        }  # fmt: skip
        return JSONResponse(await service.for_user(user_id, k, options))


def _add_changes(app: FastAPI, service: Service) -> None:
    @app.post("/users/{user_id:path}/clicks", response_model=ClicksAnswer, responses=_ERRORS, tags=["users"])
    async def click(user_id: UserId, request: ClicksRequest) -> Response:
        """Keep what a user clicked; the next recommendations know it."""
        return JSONResponse(await service.click(user_id, request))

    @app.put("/items/{item_id:path}", response_model=ItemAnswer, responses=_CHANGES, tags=["items"])
    async def put_item(item_id: ItemId, request: PutItemRequest) -> Response:
        """Put an item into the index, or change it; it is recommended at once."""
        return JSONResponse(await service.put(item_id, request))

    @app.delete("/items", response_model=DeletedAnswer, responses=_CHANGES, tags=["items"])
    async def delete_items(item_id: Annotated[list[Id], Query(min_length=1, max_length=1000)]) -> Response:
        """Take items out of the index; those that are not there are no error."""
        return JSONResponse(await service.delete(item_id))

    @app.delete(
        "/items/{item_id:path}", response_model=DeletedAnswer, responses={**_CHANGES, **_MISSING}, tags=["items"]
    )
    async def delete_item(item_id: ItemId) -> Response:
        """Take an item out of the index."""
        answer = await service.delete([item_id])
        if not answer["deleted"]:
            raise Refused(404, "There is no such item.")
        return JSONResponse(answer)


def _add_state(app: FastAPI, service: Service) -> None:
    unready: dict[int | str, dict[str, Any]] = {503: {"model": HealthAnswer, "description": "Not now."}}

    @app.get("/healthz", response_model=HealthAnswer, response_model_exclude_unset=True, tags=["state"])
    async def healthz() -> Response:
        """Whether the process answers."""
        return JSONResponse({"status": "ok"})

    @app.get("/readyz", response_model=HealthAnswer, responses=unready, tags=["state"])
    async def readyz() -> Response:
        """Whether requests are answered, and from which version of the index."""
        return JSONResponse(service.health(), 200 if service.ready else 503)

    text: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' format."},
        401: _ERRORS[401],
    }

    @app.get("/metrics", response_class=Response, responses=text, tags=["state"])
    async def metrics() -> Response:
        """Requests, times, batches; coverage, share of fallbacks, drift of the scores."""
        service.measure()
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _refused(metrics: Metrics) -> Any:
    async def handler(request: Request, error: Any) -> Response:
        if error.reason:
            metrics.refused.labels(error.reason).inc()
        headers = {"Retry-After": str(RETRY_AFTER_S)} if error.status == 503 else None
        return JSONResponse({"detail": error.detail}, error.status, headers)

    return handler


async def _invalid(request: Request, error: Any) -> Response:
    """What is wrong with a request, without what was sent."""
    parts = []
    for one in error.errors()[:5]:
        where = ".".join(str(part) for part in one["loc"][1:])
        parts.append(f"`{where or 'body'}`: {one['msg']}"[:300])
    return JSONResponse({"detail": "; ".join(parts)}, 422)


def _document_tokens(app: FastAPI) -> None:
    made = app.openapi

    def openapi() -> dict[str, Any]:
        found = made()
        found.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
        for path in ("/healthz", "/readyz"):
            found["paths"][path]["get"]["security"] = []
        return found

    app.openapi = openapi  # type: ignore[method-assign]
