"""The controller within this process: the same API, answered by the same application, without a network in between.

Who can read the records needs no token: it is not asked for one.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import requests
import urllib3
from requests.adapters import BaseAdapter, HTTPAdapter

from wxsup import sdk
from wxsup.access import Caller, Gate
from wxsup.api import create_app
from wxsup.controller import open_controller
from wxsup.credentials import Credentials
from wxsup.proxy import Proxy
from wxsup.settings import Settings

URL = "http://localhost"


@contextmanager
def controller(settings: Settings, *, prepare: bool) -> Iterator[sdk.Controller]:
    """Yield the controller that `settings` describe; `prepare` its folders for whoever changes something."""
    used = open_controller(settings)
    if prepare:
        used.prepare()
    with closing(Proxy()) as proxy, requests.Session() as session:
        session.mount(URL, Application(create_app(used, proxy, _Open())))
        yield sdk.Controller(URL, session=session)


class _Open(Gate):
    def __init__(self) -> None:
        """Know no tokens."""

    def admit(self, environ: dict[str, Any], shown: Credentials) -> Caller:
        """Let everybody in: it is ourselves."""
        return Caller()


class Application(BaseAdapter):
    """Has requests answered by a WSGI application (PEP 3333) in this process."""

    def __init__(self, app: Any) -> None:
        super().__init__()
        self._app = app
        self._adapter = HTTPAdapter()

    def send(self, request: requests.PreparedRequest, *options: Any, **more: Any) -> requests.Response:
        """Return what the application answers; time-outs are its own business."""
        told: dict[str, Any] = {}

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
            told.update(status=int(status.split(" ", 1)[0]), headers=headers)

        chunks = self._app(_environ(request), start_response)
        try:
            body = b"".join(chunks)
        finally:
            if close := getattr(chunks, "close", None):
                close()
        answer = urllib3.HTTPResponse(io.BytesIO(body), preload_content=False, **told)
        return self._adapter.build_response(request, answer)

    def close(self) -> None:
        """Have nothing to close."""


def _environ(request: requests.PreparedRequest) -> Mapping[str, Any]:
    parts = urlsplit(str(request.url))
    body = request.body or b""
    content = body.encode() if isinstance(body, str) else bytes(body)
    headers = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in request.headers.items()}
    return {
        **{name: value for name, value in headers.items() if name not in ("HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH")},
        "REQUEST_METHOD": str(request.method),
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(parts.path).decode("latin-1"),
        "QUERY_STRING": parts.query,
        "CONTENT_TYPE": headers.get("HTTP_CONTENT_TYPE", ""),
        "CONTENT_LENGTH": str(len(content)),
        "HTTP_HOST": parts.netloc,
        "SERVER_NAME": parts.netloc,
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": parts.scheme,
        "wsgi.input": io.BytesIO(content),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
