"""What every request passes first: its host, its sender, its origin; and the headers of every answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from mailferry.monitor.page.access import same_origin

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from mailferry.monitor.page.access import Access

SESSION_COOKIE, VISITOR_COOKIE = "mailferry_session", "mailferry_visitor"
#: Whose answers say nothing that is not for everyone.
_PUBLIC = ("/healthz", "/readyz", "/signin", "/static/")
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not "no-referrer": with that, the browser sends no origin along with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
#: Bytes of a request's body; a form holds the numbers of a page of jobs.
MOST_BYTES = 100_000


class Gate:
    """ASGI middleware. `access` returns the rules that count at the moment."""

    def __init__(self, app: ASGIApp, access: Callable[[], Access]) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        access = self._access()
        address = (scope.get("client") or ("",))[0]
        cookies = cookie_parser(headers.get("cookie", ""))
        visitor = cookies.get(VISITOR_COOKIE, "")
        fresh = "" if visitor.isalnum() and len(visitor) == 32 else access.new_visitor()
        scope["mailferry"] = {"access": access, "address": address, "visitor": fresh or visitor, "user": None}
        secure = access.is_proxy(address) and headers.get("x-forwarded-proto") == "https"

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    out.setdefault(name, value)
                out.setdefault("cache-control", "no-store")
                if fresh and out.get("content-type", "").startswith("text/html"):
                    out.append("set-cookie", cookie(VISITOR_COOKIE, fresh, secure=secure))
            await send(message)

        refused = self._refused(scope, headers, access, address, cookies)
        await (refused or self._app)(scope, receive, guarded)

    def _refused(
        self, scope: Scope, headers: Headers, access: Access, address: str, cookies: dict[str, str]
    ) -> Response | None:
        host = headers.get("host", "")
        if not access.knows_host(host):
            return PlainTextResponse(
                f"This page is not known as {host[:200]!r}. If that is right, add the name to hosts of [page] (PAGE_HOSTS).\n",
                status_code=421,
            )
        path: str = scope["path"]
        user = access.signed_in(address, headers.getlist, cookies.get(SESSION_COOKIE, ""))
        scope["mailferry"]["user"] = user
        if user is None and not path.startswith(_PUBLIC):
            return self._unknown(scope, headers, access, address)
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and not same_origin(
            host, headers.get("origin", ""), headers.get("sec-fetch-site", "")
        ):
            return said(403, "This request comes from another site; nothing was changed.", headers)
        if int_of(headers.get("content-length", "0")) > MOST_BYTES:
            return said(413, "The request is too large.", headers)
        return None

    def _unknown(self, scope: Scope, headers: Headers, access: Access, address: str) -> Response:
        if wait := access.attempts.wait(address):
            answer = said(429, "Too many wrong tokens; wait a minute.", headers)
            answer.headers["retry-after"] = str(int(wait) + 1)
            return answer
        if access.by_token and scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            query = scope["query_string"].decode("latin-1")
            there = quote(scope["path"] + (f"?{query}" if query else ""))
            return RedirectResponse(f"/signin?next={there}", status_code=303)
        how = (
            "Send the token: Authorization: Bearer ..."
            if access.by_token
            else "Come by the proxy that signs people in."
        )
        answer = said(401, how, headers)
        if access.by_token:
            answer.headers["www-authenticate"] = 'Bearer realm="mailferry"'
        return answer


def said(status: int, text: str, headers: Headers) -> Response:
    """An answer of one sentence, as JSON where a program asks."""
    if "text/html" in headers.get("accept", "") or "text/plain" in headers.get("accept", ""):
        return PlainTextResponse(f"{text}\n", status_code=status)
    return Response(
        json.dumps({"version": 1, "error": text}), status_code=status, media_type="application/json"
    )


def cookie(name: str, value: str, *, secure: bool, age: int | None = None) -> str:
    """A Set-Cookie header that no script and no other site can use."""
    parts = [f"{name}={value}", "Path=/", "HttpOnly", "SameSite=Lax"]
    parts += [f"Max-Age={age}"] if age is not None else []
    parts += ["Secure"] if secure else []
    return "; ".join(parts)


def int_of(text: str) -> int:
    """A number of a header or a query; -1 for anything else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else -1
