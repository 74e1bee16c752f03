"""Serves a study to the browsers of this machine, and keeps what they answer on its disk."""

from __future__ import annotations

import json
import re
import threading
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from diffaug.errors import DiffaugError
from diffaug.files import write_json
from diffaug.reader_study.answers import ReaderAnswers
from diffaug.reader_study.making import PAGE
from diffaug.reader_study.requests import ServeRequest
from diffaug.shapes import require_shape

HOST = "127.0.0.1"
ADDRESS = re.compile(r"/answers/(?P<study>[0-9a-f]{12})/(?P<reader>[A-Za-z0-9_-]{1,40})")
STUDY_ID = re.compile(r'"id": "([0-9a-f]{12})"')
MOST_BYTES = 10 * 2**20  # of a reader's answers


class _Server(ThreadingHTTPServer):
    request_queue_size = 64  # on a busy machine more than socketserver's five wait, and are turned away


def open_server(request: ServeRequest) -> ThreadingHTTPServer:
    """Open the server; it answers once its `serve_forever` runs.

    Args:
        request: What is served.

    Returns:
        The server, bound to this machine alone.

    Raises:
        DiffaugError: If there is no study, or the port is taken.
    """
    if not (request.study / PAGE).is_file():
        raise DiffaugError(
            f"{request.study}: found no {PAGE}, expected a study's folder; make one: diffaug reader-study make"
        )
    study = STUDY_ID.search((request.study / "study.js").read_text(encoding="utf-8"))
    if study is None:
        raise DiffaugError(f"{request.study}/study.js: names no study, expected what make wrote; make the study anew")
    handler = partial(_Handler, request.answers, study[1], threading.Lock(), directory=str(request.study))
    try:
        return _Server((HOST, request.port), handler)
    except (OSError, OverflowError) as error:
        raise DiffaugError(
            f"--port {request.port}: cannot be used ({error}), expected a free one; name another, or 0 for any"
        ) from error


def address(server: ThreadingHTTPServer) -> str:
    """Tell where a server is found.

    Args:
        server: The server.

    Returns:
        Its address.
    """
    return f"http://{HOST}:{server.server_port}/"


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, answers: Path, study: str, lock: threading.Lock, *args: Any, **how: Any) -> None:
        self.answers, self.study, self.lock = answers, study, lock
        super().__init__(*args, **how)

    def do_HEAD(self) -> None:
        if self._from_here():
            super().do_HEAD()

    def do_GET(self) -> None:
        if not self._from_here():
            return
        if (file := self._file()) is None:
            super().do_GET()
        elif not file.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            self._send(file.read_bytes())

    def do_PUT(self) -> None:
        if not self._from_here():
            return
        file = self._file()
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            length = -1
        if file is None or not 0 <= length <= MOST_BYTES:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        body = self.rfile.read(length)
        try:
            content = json.loads(body, parse_constant=_refuse)
            require_shape(content, ReaderAnswers, "answers", "send what the page sends")
            if f"answers_{content['study']}_{content['reader']}.json" != file.name:
                raise DiffaugError("answers of another reader")
        except (DiffaugError, RecursionError, ValueError):
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        try:
            with self.lock:  # a page's tabs write beside each other
                write_json(file, content)
        except (DiffaugError, OSError) as error:
            print(f"reader-study serve: {error}", flush=True)
            self.send_error(HTTPStatus.INSUFFICIENT_STORAGE)
            return
        self._send(b"{}")

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        super().end_headers()

    def list_directory(self, path: Any) -> None:
        self.send_error(HTTPStatus.NOT_FOUND)

    def handle(self) -> None:
        try:
            super().handle()
        except (BrokenPipeError, ConnectionResetError):  # a browser that was closed
            self.close_connection = True

    def log_message(self, *args: Any) -> None:
        """Say nothing of each file that is fetched."""

    def _from_here(self) -> bool:
        """Refuse pages of elsewhere whose name was made to lead here, and what other pages send."""
        port = self.server.server_port  # type: ignore[attr-defined]
        here = {f"{host}:{port}" for host in (HOST, "localhost")}
        origin = self.headers.get("Origin")
        known = "%00" not in self.path and self.headers.get("Host") in here
        # another page may name a volume as its script, and a browser then tells no origin
        other = self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
        known &= not other or self.headers.get("Sec-Fetch-Mode") == "navigate"
        if known and (origin is None or origin.removeprefix("http://") in here):
            return True
        self.send_error(HTTPStatus.FORBIDDEN)
        return False

    def _file(self) -> Path | None:
        match = ADDRESS.fullmatch(self.path)
        if match is None or match["study"] != self.study:
            return None
        return self.answers / f"answers_{self.study}_{match['reader']}.json"

    def _send(self, content: bytes) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
