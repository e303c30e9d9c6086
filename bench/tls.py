"""TLS in front of the sandbox: the standard library's ssl, with a certificate that is its own authority."""

from __future__ import annotations

import http.client
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

import certifi

from tests.tls import serving


@contextmanager
def front(url: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield an https address that leads to `url`, and a file with the authorities to trust: ours and all usual ones."""
    target = urlsplit(url).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_POST(self) -> None:
            """Pass on a call and its answer, in which the sandbox names itself as http."""
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            upstream = http.client.HTTPConnection(target)
            try:
                upstream.request(self.command, self.path, body, dict(self.headers.items()))
                answer = upstream.getresponse()
                content = answer.read().replace(b"http://", b"https://")
            finally:
                upstream.close()
            with suppress(OSError):
                self.send_response(answer.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        do_GET = do_POST

        def log_message(self, format: str, *arguments: object) -> None:
            """Keep the terminal quiet."""

    with serving(Handler, folder) as (server, certificate):
        # As long as those of the distributions: a client has to hold them all.
        bundle = folder / "bundle.pem"
        shutil.copy(certifi.where(), bundle)
        with open(bundle, "a", encoding="ascii") as file:
            file.write(certificate.read_text())
        yield server.url, bundle
