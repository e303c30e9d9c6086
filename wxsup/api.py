"""The HTTP API: Falcon resources over the controller, and everything else under /openwx/ passed on to a client.

Replies are those of openwx-api.md 9.3, in the documented form. Who calls is known before anything else is looked at;
whether the caller may, as soon as the call and the client are.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import falcon

from wxsup import credentials, values
from wxsup.access import Caller, Gate
from wxsup.controller import Controller
from wxsup.errors import ApiNotFound, NameInvalid, ParameterRefused, TokenRefused, TooManyFailures, WxsupError
from wxsup.proxy import Proxy, read
from wxsup.tokens import Role

logger = logging.getLogger(__name__)

FORM = "application/x-www-form-urlencoded"
FORM_LIMIT = 65536
MAX_FIELDS = 200


class Request(falcon.Request):
    """A request from which its tokens were taken before Falcon looked at it."""

    __slots__ = ("caller", "shown")

    def __init__(self, env: dict[str, Any], options: falcon.RequestOptions | None = None) -> None:
        self.shown = credentials.take(env)
        self.caller: Caller
        super().__init__(env, options)


class Own:
    """A call that the controller answers itself."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller


class StartClient(Own):
    """start_client: the start parameters come in the query, by POST also in a form."""

    def on_get(self, req: Request, resp: falcon.Response) -> None:
        params = _parameters(req)
        name = params.pop("client", "")
        req.caller.allow(Role.OPERATOR, name)
        _reply(resp, self._controller.start(name, params))

    on_post = on_get


class StopClient(Own):
    """stop_client: answers when the process is gone."""

    def on_get(self, req: Request, resp: falcon.Response) -> None:
        name = _parameters(req).get("client", "")
        req.caller.allow(Role.OPERATOR, name)
        _reply(resp, self._controller.stop(name))

    on_post = on_get


class RestartClient(Own):
    """restart_client: stops and starts; with replace=1 the other parameters take the place of the old ones."""

    def on_get(self, req: Request, resp: falcon.Response) -> None:
        params = _parameters(req)
        name = params.pop("client", "")
        req.caller.allow(Role.OPERATOR, name)
        replace = _flag(params, "replace")
        for given in params if not replace else ():
            raise ParameterRefused(given, "only with replace=1")
        _reply(resp, self._controller.restart(name, params if replace else None))

    on_post = on_get


class RemoveClient(Own):
    """remove_client: stop_client, with purge=1 also for the session."""

    def on_get(self, req: Request, resp: falcon.Response) -> None:
        params = _parameters(req)
        name = params.get("client", "")
        req.caller.allow(Role.ADMIN, name)
        _reply(resp, self._controller.remove(name, purge=_flag(params, "purge")))

    on_post = on_get


class CheckClient(Own):
    """check_client: the whole state of one client, or of all that the caller may see."""

    def on_get(self, req: Request, resp: falcon.Response) -> None:
        name = _parameters(req).get("client")
        req.caller.allow(Role.OPERATOR, name or "")
        found = [state for state in self._controller.check(name) if req.caller.sees(state["account"])]
        _reply(resp, {"code": 0, "client": found})

    on_head = on_get


class GetQrcode(Own):
    """get_qrcode: the picture to scan, or 404 when no scan is wanted; it only reads."""

    def on_get(self, req: Request, resp: falcon.Response) -> None:
        name = _parameters(req).get("client", "")
        req.caller.allow(Role.OPERATOR, name)
        picture = self._controller.qrcode(name)
        resp.cache_control = ["no-cache"]
        if picture is None:
            resp.status = falcon.HTTP_404
            resp.content_type = falcon.MEDIA_HTML
            return
        # WeChat's own picture of the web protocol is a JPEG, the one that we draw a PNG.
        resp.content_type = "image/png" if picture.startswith(b"\x89PNG") else "image/jpg"
        resp.data = picture

    on_head = on_get


class Admission:
    """Middleware that finds out who calls, before anything else is looked at."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def process_request(self, req: Request, resp: falcon.Response) -> None:
        req.caller = self._gate.admit(req.env, req.shown)


def create_app(controller: Controller, proxy: Proxy, gate: Gate) -> falcon.App[Request, falcon.Response]:
    """Return the WSGI application over `controller` for those whom `gate` lets in."""
    app = falcon.App(middleware=[Admission(gate)], request_type=Request)
    app.add_route("/openwx/start_client", StartClient(controller))
    app.add_route("/openwx/stop_client", StopClient(controller))
    app.add_route("/openwx/restart_client", RestartClient(controller))
    app.add_route("/openwx/remove_client", RemoveClient(controller))
    app.add_route("/openwx/check_client", CheckClient(controller))
    app.add_route("/openwx/get_qrcode", GetQrcode(controller))

    def pass_on(req: Request, resp: falcon.Response, **_: object) -> None:
        name = _query(req).get("client", "")
        req.caller.allow(Role.APP, name)
        address, secret = controller.reach(name)
        answer = proxy.forward(address, req.env, secret=secret, alive=lambda: controller.alive(name))
        resp.status = answer.status
        for header, value in answer.headers:
            resp.append_header(header, value)
        if answer.length is not None:
            resp.set_stream(answer.body, answer.length)
        else:
            resp.stream = answer.body

    def not_found(req: Request, resp: falcon.Response, **_: object) -> None:
        raise ApiNotFound

    # Sinks are asked last added first.
    app.add_sink(not_found)
    app.add_sink(pass_on, "/openwx/")
    app.add_error_handler(Exception, _on_defect)
    app.add_error_handler(falcon.HTTPError, _on_http_error)
    app.add_error_handler(WxsupError, _on_error)
    return app


def _parameters(req: Request) -> dict[str, str]:
    """Return the parameters of a call to the controller itself, from the query and from a form."""
    found = _query(req)
    if req.method == "POST" and (req.content_type or "").partition(";")[0].strip().lower() == FORM:
        content = read(req.env["wsgi.input"], FORM_LIMIT + 1)  # not bounded_stream, which takes a chunked body for none
        if len(content) > FORM_LIMIT:
            raise ParameterRefused("body", f"a form of more than {FORM_LIMIT} bytes")
        for name, value in _pairs(content, found):
            found[name] = value
    return found


def _flag(params: dict[str, str], name: str) -> bool:
    """Take a parameter that is 1 or 0 out of `params`; raise ParameterRefused for anything else."""
    try:
        return bool(values.flag(params.pop(name, "0")))
    except ValueError as ex:
        raise ParameterRefused(name, str(ex)) from ex


def _query(req: Request) -> dict[str, str]:
    """Return the query; raise NameInvalid or ParameterRefused when a parameter comes twice or is no UTF-8."""
    return dict(_pairs(req.query_string.encode("latin-1"), {}))


def _pairs(encoded: bytes, before: Mapping[str, str]) -> list[tuple[str, str]]:
    try:
        pairs = parse_qsl(encoded.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError as ex:
        raise NameInvalid(f"the parameters are not UTF-8, or more than {MAX_FIELDS}") from ex
    seen = set(before)
    for name, _ in pairs:
        if name in seen:
            if name == "client":
                raise NameInvalid("client is given more than once")
            raise ParameterRefused(name, "it is given more than once")
        seen.add(name)
    return pairs


def _reply(resp: falcon.Response, body: Mapping[str, Any]) -> None:
    resp.content_type = falcon.MEDIA_JSON
    text = json.dumps(body, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    # The state file of a client may hold half a surrogate pair, which only JSON's own escape can pass on.
    resp.data = text.encode(errors="backslashreplace")


def _on_error(req: Request, resp: falcon.Response, ex: WxsupError, params: Mapping[str, Any]) -> None:
    resp.status = falcon.code_to_http_status(ex.http_status)
    if isinstance(ex, TokenRefused):
        resp.set_header("WWW-Authenticate", "Bearer")
    elif isinstance(ex, TooManyFailures):
        resp.set_header("Retry-After", str(ex.fields["retry_after"]))
    _reply(resp, ex.body())


def _on_http_error(req: Request, resp: falcon.Response, ex: falcon.HTTPError, params: Mapping[str, Any]) -> None:
    if isinstance(ex, (falcon.HTTPMethodNotAllowed, falcon.HTTPRouteNotFound)):
        _on_error(req, resp, ApiNotFound(), params)
        return
    resp.status = ex.status
    _reply(resp, {"code": -1, "status": ex.title or ex.status})


def _on_defect(req: Request, resp: falcon.Response, ex: Exception, params: Mapping[str, Any]) -> None:
    logger.error("request failed", exc_info=ex, extra={"action": "request", "path": req.path})
    resp.status = falcon.HTTP_500
    _reply(resp, {"code": -1, "status": "internal error"})
