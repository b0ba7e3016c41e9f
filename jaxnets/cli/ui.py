"""`jaxnets ui`: a local web page that lists the runs of a folder, plots their curves together and is updated live."""

import dataclasses
import functools
import json
import math
import secrets
import sys
import urllib.parse
import webbrowser
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from jaxnets.cli.flags import parse
from jaxnets.core.errors import UsageError
from jaxnets.core.files import user_path
from jaxnets.core.flatten import flatten
from jaxnets.runs import catalog

PAGE = Path(__file__).resolve().parents[1] / "report" / "runs_page.html"
# Points of a curve that are sent; of longer ones every n-th is.
MOST_RECORDS = 5000


@dataclasses.dataclass(frozen=True)
class UiOptions:
    """Options of `jaxnets ui`."""

    port: int = 8400
    """Port of the page, on this machine only; 0 takes a free one."""
    browser: bool = True
    """Open the page in the browser."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ValueError(f"port is from 0 to 65535, got {self.port}")


def run(arguments: Sequence[str]) -> int:
    """`jaxnets ui [DIR] [flags]`; serves until Ctrl-C."""
    folder, flags = "runs", arguments
    if arguments and not arguments[0].startswith("-"):
        folder, flags = arguments[0], arguments[1:]
    options = parse(UiOptions, flags, "jaxnets ui DIR")
    server = make_server(folder, options.port)
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    print(f"{folder}: {address} (Ctrl-C ends it)", flush=True)
    if options.browser:
        webbrowser.open(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
    return 0


def make_server(folder: str, port: int) -> ThreadingHTTPServer:
    """The server of a folder's page, on this machine alone; raises `UsageError` where folder or port cannot be had."""
    root = user_path(folder)
    if not root.is_dir():
        raise UsageError(f"there is no folder {folder!r}; give the folder that holds run directories")
    try:
        return _Server(("127.0.0.1", port), functools.partial(_Handler, root, folder))
    except OSError as error:
        raise UsageError(f"port {port} cannot be had ({error}); choose another, --port 0 takes a free one") from error


class _Server(ThreadingHTTPServer):
    """A server that ignores connections that are closed during an answer."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """See `socketserver.BaseServer`."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers for the page, its data and the reports of the runs; reads files of runs, writes none."""

    def __init__(self, root: Path, folder: str, *arguments: Any) -> None:
        self._root, self._folder = root, folder
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """See `BaseHTTPRequestHandler`."""
        host = (self.headers.get("Host") or "").rsplit(":", 1)[0]
        if host not in ("127.0.0.1", "localhost"):  # the name of another site that resolves to this machine
            self._send(403, "text/plain", b"only 127.0.0.1 and localhost are served")
            return
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/":
            nonce = secrets.token_urlsafe(16)
            self._send(200, "text/html", PAGE.read_bytes().replace(b"NONCE", nonce.encode()), f"'nonce-{nonce}'")
        elif url.path == "/api/runs":
            self._json({"folder": self._folder, "runs": [_about(entry) for entry in self._entries()]})
        elif url.path == "/api/records":
            entry = self._entry(urllib.parse.parse_qs(url.query).get("run", [""])[0])
            self._missing() if entry is None else self._json(_thinned(entry.records))
        elif url.path.startswith("/report/"):
            entry = self._entry(urllib.parse.unquote(url.path.removeprefix("/report/")))
            page = None if entry is None else entry.path / catalog.REPORT
            if page is None or not page.is_file():
                self._missing()
            else:
                self._send(200, "text/html", page.read_bytes())
        else:
            self._missing()

    def _entry(self, name: str) -> catalog.Entry | None:
        """The run with this name among those of the folder: a name is never joined to a path."""
        return next((entry for entry in self._entries() if entry.name == name), None)

    def _entries(self) -> list[catalog.Entry]:
        """The runs; none if the folder was deleted."""
        try:
            return catalog.find(self._root)
        except UsageError:
            return []

    def _json(self, data: Any) -> None:
        self._send(200, "application/json", json.dumps(_plain(data), allow_nan=False).encode())

    def _missing(self) -> None:
        self._send(404, "text/plain", b"there is no such page")

    def _send(self, code: int, kind: str, content: bytes, scripts: str = "'none'") -> None:
        self.send_response(code)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header(
            "Content-Security-Policy",
            f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {scripts}; connect-src 'self'; "
            f"base-uri 'none'; frame-ancestors 'none'",
        )
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Requests are not printed."""


def _about(entry: catalog.Entry) -> dict[str, Any]:
    """The data of a run for the page."""
    return {
        "name": entry.name,
        "state": entry.state,
        "step": entry.step,
        "steps": entry.config.get("steps"),
        "model": entry.fields.get("model"),
        "data": entry.fields.get("data"),
        "scores": entry.scores,
        "config": flatten(entry.config),
        "modified": entry.modified,
        "records": len(entry.records),
        "stamp": f"{len(entry.records)}-{entry.modified}",
        "report": (entry.path / catalog.REPORT).is_file(),
        "trouble": entry.trouble,
    }


def _thinned(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """All records of held-out splits, and training records up to `MOST_RECORDS`, evenly spaced."""
    train = [record for record in records if record["split"] == "train"]
    every = -(-len(train) // MOST_RECORDS) if train else 1
    return [*train[::every], *(record for record in records if record["split"] not in ("train", "health"))]


def _plain(data: Any) -> Any:
    """Data that JSON can hold: numbers that are not finite become null."""
    if isinstance(data, dict):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
