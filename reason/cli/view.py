"""`reason view`: searches to look at, as a page or served on this machine."""

from __future__ import annotations

import contextlib
import json
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reason.cli.errors import exit_on_error
from reason.errors import ReasonError, UsageError

if TYPE_CHECKING:
    from reason.report.view import RunFile

__all__ = ["ViewServer", "view"]


@exit_on_error()
def view(
    path: Annotated[
        Path, typer.Argument(help="What `reason solve --trace` or `reason eval` wrote.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write the page to this file.", show_default="PATH's name, here, with .html")
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Show it on this machine until Ctrl-C, runs under way as they grow.")
    ] = False,
    port: Annotated[int, typer.Option(help="With --serve; 0 takes a free one.")] = 8321,
    problem: Annotated[
        list[str] | None, typer.Option(help="Of a folder, only this problem; can be repeated.", show_default="all")
    ] = None,
) -> None:
    """Look at searches: their trees, texts, scores and costs, event by event.

    The page is one file that needs no network.
    """
    from reason.report.view import find_runs, write_page

    if serve and out is not None:
        raise UsageError("give --out or --serve, not both")
    runs = find_runs(path, problem or ())
    if serve:
        with ViewServer(lambda: find_runs(path, problem or ()), port) as server:
            typer.echo(f"{server.url}  (Ctrl-C ends it)")
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                return
    out = out or Path(f"{path.resolve().stem if path.is_file() else path.resolve().name}.html")
    size = write_page(runs, out)
    typer.echo(f"{out}  ({len(runs)} {'run' if len(runs) == 1 else 'runs'}, {size / 1e6:.1f} MB)")


class ViewServer(ThreadingHTTPServer):
    """Serves the page to this machine only; each request reads the journals as they are then.

    Args:
        find: lists the runs.
        port: 0 takes a free one; ``url`` has it.

    Raises:
        UsageError: the port is taken, or not allowed.
    """

    daemon_threads = True

    def __init__(self, find: Callable[[], list[RunFile]], port: int) -> None:
        self.find = find
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise UsageError(f"cannot serve on port {port}: {why}; choose another with --port, 0 for any") from None
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: ViewServer
    server_version = "reason"
    sys_version = ""

    def do_GET(self) -> None:
        from reason.report.view import index_entry, page

        if self.headers.get("Host") not in self.server.hosts:  # another site's name that was made to point here
            self.send_error(403)
            return
        path = urllib.parse.urlsplit(self.path).path
        if path == "/":
            try:
                content = page([index_entry(run) for run in self.server.find()])
            except ReasonError as error:
                self._send(str(error), "text/plain")
            else:
                self._send(content, "text/html")
        elif path.startswith("/run/"):
            try:
                self._send_run(urllib.parse.unquote(path.removeprefix("/run/"), errors="surrogateescape"))
            except ReasonError as error:
                self._send(json.dumps({"error": str(error)}), "application/json")
        else:
            self.send_error(404)

    def _send_run(self, name: str) -> None:
        from reason.report.view import dump, load_run

        run = next((run for run in self.server.find() if run.id == name), None)
        if run is None:
            raise UsageError(f"there is no run {name} any more")
        try:
            facts = run.file.stat()
        except OSError as error:
            raise ReasonError(f"cannot read {run.file}: {error.strerror}") from None
        tag = f'"{facts.st_size}-{facts.st_mtime_ns}"'
        if self.headers.get("If-None-Match") == tag:
            self.send_response(304)
            self.end_headers()
            return
        self._send(dump(load_run(run)), "application/json", tag)

    def _send(self, content: str, kind: str, tag: str | None = None) -> None:
        data = content.encode("utf-8", "backslashreplace")
        self.send_response(200)
        headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(data)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Cross-Origin-Resource-Policy": "same-origin",
        } | ({"ETag": tag} if tag else {})
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the page was closed meanwhile
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""
