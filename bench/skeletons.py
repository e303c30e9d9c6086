"""Programs that do nothing but what any client must, each with another library: what that library costs.

A skeleton is told a port on which nobody ever answers. It says that it is ready when its port is bound, then waits.
"""

from __future__ import annotations

from dataclasses import dataclass

READY = """
def ready():
    import os, socket
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
"""

_SERVER = """
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
"""

_STORE = """
import sqlite3
store = sqlite3.connect(":memory:")
store.execute("CREATE TABLE note (body TEXT)")
"""


@dataclass(frozen=True)
class Skeleton:
    """One program: `needs` is what pip must install for it; `waits` is for ever."""

    code: str
    waits: str = "import signal\nsignal.pause()\n"
    needs: tuple[str, ...] = ()

    def text(self, port: int) -> str:
        """Return what python -c takes."""
        return f"PORT = {port}\n{READY}\n{self.code}\nready()\n{self.waits}"


_WSGI = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"{}"]
"""

_FALCON = """
import falcon
class Info:
    def on_get(self, request, response):
        response.media = {}
app = falcon.App()
app.add_route("/info", Info())
"""

_BOTTLE = """
import bottle
app = bottle.Bottle()
app.route("/info", callback=lambda: {})
"""

_WAITRESS = """
import waitress, threading
server = waitress.create_server(app, host="127.0.0.1", port=0)
threading.Thread(target=server.run, daemon=True).start()
"""

_GEVENT = """
from gevent.pywsgi import WSGIServer
server = WSGIServer(("127.0.0.1", 0), app, log=None)
server.start()
"""

_WSGIREF = """
import threading
from wsgiref.simple_server import make_server
server = make_server("127.0.0.1", 0, app)
threading.Thread(target=server.serve_forever, daemon=True).start()
"""

_GEVENT_WAITS = "import gevent\nserver.serve_forever()\n"

BARE = Skeleton("")
REFERENCE = Skeleton(_SERVER + _STORE)
_CALL = "session.post(f'http://127.0.0.1:{PORT}/', json={}, timeout=3600)"
WITH_REQUESTS = Skeleton(_SERVER + _STORE + "import requests\nsession = requests.Session()", _CALL, ("requests",))

SERVERS = {
    "none": BARE,
    "http.server": Skeleton(_SERVER),
    "wsgiref": Skeleton(_WSGI + _WSGIREF),
    "bottle, wsgiref": Skeleton(_BOTTLE + _WSGIREF, needs=("bottle",)),
    "bottle, waitress": Skeleton(_BOTTLE + _WAITRESS, needs=("bottle", "waitress")),
    "falcon, waitress": Skeleton(_FALCON + _WAITRESS, needs=("falcon", "waitress")),
    "gevent.pywsgi": Skeleton(_WSGI + _GEVENT, _GEVENT_WAITS, ("gevent",)),
    "falcon, gevent.pywsgi": Skeleton(_FALCON + _GEVENT, _GEVENT_WAITS, ("falcon", "gevent")),
}

#: Each beside http.server, which shares its parsing of headers with some of them, while a call is held.
CLIENTS = {
    "none": Skeleton(_SERVER),
    "http.client": Skeleton(
        _SERVER + "import http.client\nconnection = http.client.HTTPConnection('127.0.0.1', PORT, timeout=3600)",
        "connection.request('POST', '/', b'{}')\nconnection.getresponse()",
    ),
    "urllib.request": Skeleton(
        _SERVER + "import urllib.request",
        "urllib.request.urlopen(f'http://127.0.0.1:{PORT}/', b'{}', timeout=3600)",
    ),
    "urllib3": Skeleton(
        _SERVER + "import urllib3\npool = urllib3.PoolManager()",
        "pool.request('POST', f'http://127.0.0.1:{PORT}/', body=b'{}', timeout=3600, retries=False)",
        ("urllib3",),
    ),
    "requests": Skeleton(_SERVER + "import requests\nsession = requests.Session()", _CALL, ("requests",)),
    "httpx": Skeleton(_SERVER + "import httpx\nsession = httpx.Client()", _CALL, ("httpx",)),
}

JSON = {
    "json": Skeleton("import json"),
    "orjson": Skeleton("import orjson", needs=("orjson",)),
    "ujson": Skeleton("import ujson", needs=("ujson",)),
}
