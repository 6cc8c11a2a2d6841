"""A server with a beginning and an end: the address is taken first, so that a busy port is told before anything is loaded.

Owns the socket and, for notebooks and scripts, the thread. The web framework is imported here and not above, so that the rest of the package works without
it. Refuses: a port that is taken or may not be used, an address that this machine does not have, a missing extra.
"""

import errno
import importlib.util
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from sparselight.errors import ConfigError, MissingExtraError, RunError
from sparselight.serve.settings import ServeSettings

GRACE_S = 3
"""How long open requests may go on when the server stops."""
KEEP_S = 60
"""How long a connection without a request is kept: a person reads a page."""
START_S = 60.0


class Server:
    """Runs that are being served.

    Raises:
        ConfigError: when the address cannot be used.
        RunError: for a folder that is no run.
        MissingExtraError: without the extra `serve`.
    """

    def __init__(self, runs: Sequence[Path], settings: ServeSettings):
        for package in ("fastapi", "uvicorn"):
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(package=package, extra="serve", asked="serve runs")
        import uvicorn

        from sparselight.serve.app import create_app

        self.settings, self.app = settings, create_app(runs, settings)
        self._socket = bind(settings)
        self.port = int(self._socket.getsockname()[1])
        config = uvicorn.Config(self.app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_S, timeout_keep_alive=KEEP_S,
                                server_header=False, ws="none", lifespan="on", h11_max_incomplete_event_size=65_536)
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where a browser finds it, with the token where there is one."""
        host = "127.0.0.1" if self.settings.host in ("0.0.0.0", "::", "[::]") else self.settings.host
        host = f"[{host}]" if ":" in host and not host.startswith("[") else host
        return f"http://{host}:{self.port}/" + (f"?token={self.settings.token}" if self.settings.token else "")

    def run(self) -> None:
        """Serve until interrupted."""
        try:
            self._server.run(sockets=[self._socket])
        except KeyboardInterrupt:
            pass  # uvicorn has ended its work and hands the signal on
        finally:
            self._socket.close()

    def start(self) -> Self:
        """Serve in a thread of its own.

        Raises:
            RunError: when it does not come up.
        """
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, name="sparselight serve", daemon=True)
        self._thread.start()
        end = time.monotonic() + START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > end:
                self.stop()
                raise RunError(asked=f"serve at {self.url.partition('?')[0]}", why="the server did not come up", instead="look at what it printed")
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        """End it; open requests get a few seconds."""
        self._server.should_exit = True
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(GRACE_S + 5)
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"Server({self.url})"

    def _repr_html_(self) -> str:
        return f'<p>sparselight serves at <a href="{self.url}" target="_blank" rel="noopener noreferrer">{self.url}</a></p>'


def serve_beside(runs: Sequence[Path], settings: ServeSettings) -> Server:
    """A server that runs beside the program."""
    return Server(runs, settings).start()


def bind(settings: ServeSettings) -> socket.socket:
    """The socket that is listened on.

    Raises:
        ConfigError: when the address cannot be used.
    """
    host = settings.host.strip("[]")
    asked = f"listen on {host} port {settings.port}"
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, settings.port))
        made.listen(128)
    except OSError as err:
        made.close()
        why = err.strerror or str(err)
        instead = "choose another port with --port, or --port 0 for a free one"
        if isinstance(err, socket.gaierror) or err.errno == errno.EADDRNOTAVAIL:
            instead = "give an address of this machine with --host, or leave it out"
        raise ConfigError(asked=asked, why=why[:1].lower() + why[1:], instead=instead) from None
    return made
