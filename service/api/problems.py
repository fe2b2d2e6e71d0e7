"""Errors as problem details (RFC 9457): what is wrong, where, and the way out."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from service.store import Refusal, Unreachable
from tts.errors import UsageError, unknown

log = logging.getLogger("tts.api")
MEDIA = "application/problem+json"


class Detail(BaseModel):
    """One thing that is wrong with a request."""

    pointer: str = Field(description="JSON pointer into the body, or the name of a parameter")
    detail: str


class Error(BaseModel):
    """The same once more, where clients of OpenAI's API look for it."""

    message: str
    type: str
    code: str
    param: str | None = None


class Problem(BaseModel):
    """Problem details for HTTP APIs, RFC 9457."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "/docs#rate",
                "title": "Too Many Requests",
                "status": 429,
                "detail": "more than 60 jobs a minute; try again in 2 s",
                "code": "rate",
                "error": {"message": "more than 60 jobs a minute", "type": "rate", "code": "rate"},
            }
        }
    )

    type: str = Field(description="names the kind of problem")
    title: str
    status: int
    detail: str
    code: str = Field(description="the kind of problem in one word")
    errors: list[Detail] | None = None
    job: str | None = None
    error: Error


class Fault(HTTPException):
    """A request that is answered with a problem; one of FastAPI's own, which it lets pass while it reads a body."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        wait: float | None = None,
        errors: list[Detail] | None = None,
        job: str | None = None,
    ) -> None:
        super().__init__(status, detail)
        self.status, self.code, self.detail, self.errors, self.job = status, code, detail, errors, job
        self.headers: dict[str, str] = {} if wait is None else {"Retry-After": str(max(1, math.ceil(wait)))}
        if status == HTTPStatus.UNAUTHORIZED:
            self.headers["WWW-Authenticate"] = "Bearer"


def no_job(id: str) -> Fault:
    """There is no such job, or it is somebody else's: nobody is told which."""
    return Fault(404, "no_job", f"there is no job {id[:80]!r}")


def answered(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route's problems look like, for its documentation."""
    always = (400, 401, 404, 408, 413, 422, 429, 503)
    return {
        status: {"model": Problem, "description": HTTPStatus(status).phrase, "content": {MEDIA: {}}}
        for status in sorted({*always, *statuses})
    }


def install(app: FastAPI) -> None:
    """Answer everything that goes wrong with a problem."""
    app.add_exception_handler(Fault, _fault)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(UsageError, _usage)
    app.add_exception_handler(Unreachable, _unreachable)
    app.add_exception_handler(Exception, _internal)
    app.openapi = partial(documented, app)  # type: ignore[method-assign]


def documented(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, which says of problems what they are sent as: FastAPI takes every model for plain JSON."""
    told = FastAPI.openapi(app)
    answers = [
        each for path in told["paths"].values() for route in path.values() for each in route["responses"].values()
    ]
    for content in (each["content"] for each in answers if MEDIA in each.get("content", ())):
        content[MEDIA] = content.pop("application/json", content[MEDIA])
    return told


def response(fault: Fault) -> JSONResponse:
    """A problem as it is sent."""
    kind = "invalid_request_error" if fault.status < 429 else fault.code
    param = fault.errors[0].pointer if fault.errors else None
    problem = Problem(
        type=f"/docs#{fault.code}",
        title=HTTPStatus(fault.status).phrase,
        status=fault.status,
        detail=fault.detail,
        code=fault.code,
        errors=fault.errors,
        job=fault.job,
        error=Error(message=fault.detail, type=kind, code=fault.code, param=param),
    )
    content = problem.model_dump(exclude_none=True)
    return JSONResponse(content, status_code=fault.status, headers=fault.headers, media_type=MEDIA)


async def _fault(request: Request, error: Any) -> JSONResponse:
    return response(error)


async def _invalid(request: Request, error: Any) -> JSONResponse:
    told = [
        _detail(each, getattr(request.app.state, "bodies", {}).get(request.url.path)) for each in error.errors()[:20]
    ]
    sent = request.headers.get("content-type", "none")
    if "json" not in sent and any(each["loc"] == ("body",) for each in error.errors()):
        what = f"the body is taken as JSON, and its Content-Type says {sent[:80]}: send Content-Type: application/json"
        return response(Fault(422, "invalid", what))
    broken = any(each["type"] == "json_invalid" for each in error.errors())
    first = told[0]
    where = f"{first.pointer}: " if first.pointer else ""
    return response(Fault(400 if broken else 422, "invalid", where + first.detail, errors=told))


def _detail(error: Mapping[str, Any], body: type[BaseModel] | None) -> Detail:
    place = [str(each) for each in error["loc"] if each != "body"]
    if error["type"] == "extra_forbidden":
        return Detail(pointer="/" + "/".join(place), detail=unknown_parameter(place[-1], _fields(body, place[:-1])))
    if error["type"] == "json_invalid":
        return Detail(pointer="", detail=f"the body is no JSON: {error.get('ctx', {}).get('error', 'it breaks off')}")
    pointer = "/" + "/".join(place) if error["loc"][:1] == ("body",) else place[-1] if place else ""
    return Detail(pointer=pointer, detail=str(error["msg"]).removeprefix("Value error, "))


def unknown_parameter(name: str, known: Iterable[str]) -> str:
    """In one line, with the nearest that is known where it stands."""
    return str(unknown("parameter", name[:80], known))


def _fields(body: type[BaseModel] | None, place: Iterable[str]) -> set[str]:
    """The fields of whatever model stands at a place of a body."""
    models = [body] if body else []
    for step in place:
        fields = [model.model_fields[step].annotation for model in models if step in model.model_fields]
        models = [model for annotation in fields for model in _models(annotation)] or models
    return {name for model in models for name in model.model_fields}


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for each in getattr(annotation, "__args__", ()) for model in _models(each)]


async def _http(request: Request, error: Any) -> JSONResponse:
    code = {400: "invalid", 404: "no_route", 405: "method"}.get(error.status_code, "http")
    detail = {404: f"there is nothing at {request.url.path[:200]}", 405: f"{request.method} is not possible here"}
    fault = Fault(error.status_code, code, detail.get(error.status_code, str(error.detail)))
    fault.headers.update(error.headers or {})
    return response(fault)


async def _refused(request: Request, error: Any) -> JSONResponse:
    return response(refused(error))


def refused(error: Refusal) -> Fault:
    """Why jobs were not taken."""
    about, wait = error.about, max(1, math.ceil(error.wait))
    if error.reason == "conflict":
        return Fault(422, "idempotency", f"this Idempotency-Key was used with another body, for {about}", job=about)
    if error.reason == "size":
        return Fault(422, "size", f"your key lets {about} jobs wait at once, and a batch is all of them: send several")
    if error.reason == "unbounded":
        return Fault(422, "unbounded", f"your key is limited in {about}: give the job a budget in {about}")
    detail = {
        "rate": f"more than {about} jobs a minute; try again in {wait} s",
        "queue": f"{about} jobs are waiting already; try again when some have ended",
        "budget": f"your budget is not enough: {_left(about)} left in this window, which ends in {wait} s",
    }[error.reason]
    return Fault(429, error.reason, detail, wait=error.wait)


def _left(about: str) -> str:
    unit, _, free = about.partition(" ")
    if not free:  # it was refused for something else
        return about
    return f"${float(free) / 1e9:.6f}" if unit == "usd" else f"{int(float(free)):,} tokens"


async def _usage(request: Request, error: Any) -> JSONResponse:
    return response(Fault(422, "cannot_be_done", str(error)))


async def _unreachable(request: Request, error: Any) -> JSONResponse:
    log.warning("%s", error)
    return response(Fault(503, "store_unavailable", "the store cannot be reached; try again", wait=1))


async def _internal(request: Request, error: Exception) -> JSONResponse:
    return response(Fault(500, "internal", "something went wrong here; it is in the log"))
