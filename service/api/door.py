"""Who may come in, and how much they may bring."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import Detail, Fault, response, unknown_parameter
from service.keys import Keys
from service.settings import Settings

_bearer = HTTPBearer(auto_error=False, description="A key from `tts keys create`; none where the service is open.")


async def tenant(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> str:
    """Whose request it is."""
    keys: Keys = request.app.state.keys
    if credentials is None:
        if request.app.state.settings.auth == "open":
            return "default"
        raise Fault(401, "key", "this needs an API key: Authorization: Bearer KEY")
    found = await keys.tenant(credentials.credentials)
    if found is None and request.app.state.settings.auth == "keys":
        raise Fault(401, "key", "this API key is not known, or was revoked")
    # An open service takes any key, since clients of OpenAI's API cannot do without one.
    return found or "default"


Tenant = Annotated[str, Depends(tenant)]


async def known_query(request: Request) -> None:
    """Refuse what a route would ignore."""
    known = {field.alias for field in request.scope["route"].dependant.query_params}
    for name in request.query_params:
        if name not in known:
            detail = unknown_parameter(name, known)
            raise Fault(422, "invalid", detail, errors=[Detail(pointer=name, detail=detail)])


class Bounded:
    """Refuses bodies that are too long, or too long in coming."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, self._settings)
        try:
            length = dict(scope["headers"]).get(b"content-length", b"0")
            body.check(int(length[:20]) if length.isdigit() else 0)
            await self._app(scope, body.receive, send)
        except Fault as fault:
            await response(fault)(scope, receive, send)


class _Body:
    """A request's body as it comes."""

    def __init__(self, receive: Receive, settings: Settings) -> None:
        self._receive, self._settings = receive, settings
        self._size, self._whole = 0, False
        self._end = asyncio.get_running_loop().time() + settings.patience_seconds

    def check(self, size: int) -> None:
        most = self._settings.most_body_bytes
        if size > most:
            raise Fault(413, "too_large", f"a request has {most:,} bytes at most here, not {size:,}")

    async def receive(self) -> Message:
        if self._whole:  # from here on only the end of the connection is waited for
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._end):  # for all of it: every byte comes in time on its own
                message = await self._receive()
        except TimeoutError:
            raise Fault(408, "slow", "the request did not come in time") from None
        self._size += len(message.get("body", b""))
        self.check(self._size)
        self._whole = not message.get("more_body", False)
        return message
