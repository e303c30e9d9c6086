"""TLS in front of the sandbox: the standard library's ssl, with a certificate that is its own authority."""

from __future__ import annotations

import http.client
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import certifi


@contextmanager
def front(url: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield an https address that leads to `url`, and a file with the authorities to trust: ours and all usual ones."""
    key, certificate, bundle = folder / "key.pem", folder / "certificate.pem", folder / "bundle.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        + ["-subj", "/CN=bench", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    # As long as those of the distributions: a client has to hold them all.
    shutil.copy(certifi.where(), bundle)
    with open(bundle, "a", encoding="ascii") as file:
        file.write(certificate.read_text())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = _Front(("127.0.0.1", 0), _Handler)
    server.target = urlsplit(url).netloc
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_port}", bundle
    server.shutdown()
    server.server_close()


class _Front(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512
    target: str

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep quiet: clients are killed in the end."""


class _Handler(BaseHTTPRequestHandler):
    server: _Front
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_POST(self) -> None:
        """Pass on a call and its answer, in which the sandbox names itself as http."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        upstream = http.client.HTTPConnection(self.server.target)
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
