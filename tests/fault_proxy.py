"""A proxy in front of an emulator of an object store: it counts, and makes faults."""

import collections
import contextlib
import dataclasses
import http.client
import http.server
import random
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

# Headers of one connection, which a proxy does not pass on.
_OF_A_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclasses.dataclass
class Proxy:
    """A running proxy.

    Attributes:
      address: where it listens.
      fault: called with the method and the path of each request. It returns None, or
        what happens instead of an answer: a status code, or `cut` to close the
        connection. It may also sleep.
      requests: requests by method.
      sent, received: bytes of the bodies, to and from the store.
      faults: the number of faults made.
    """

    address: str = ""
    fault: Callable[[str, str], int | str | None] = lambda method, path: None
    requests: collections.Counter = dataclasses.field(
        default_factory=collections.Counter
    )
    sent: int = 0
    received: int = 0
    faults: int = 0
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


def at_random(share: float, seed: int = 0) -> Callable[[str, str], int | str | None]:
    """Return a fault for a share of all requests: 503, 429, a cut or a delay."""
    rng = random.Random(seed)

    def fault(method: str, path: str) -> int | str | None:
        if rng.random() >= share:
            return None
        kind = rng.choice([503, 429, "cut", "delay"])
        if kind == "delay":
            time.sleep(1.0)
            return None
        return kind

    return fault


@contextlib.contextmanager
def proxy(store: str) -> Iterator[Proxy]:
    """Start a proxy for the store at an address; yield it."""
    state = Proxy()
    host = urlsplit(store).netloc

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def handle(self):
            # A client that is killed closes its connections at any time.
            with contextlib.suppress(ConnectionError):
                super().handle()

        def _answer(self):
            body = self._body()
            path = urlsplit(self.path)
            fault = state.fault(self.command, path.path)
            with state.lock:
                state.requests[self.command] += 1
                state.sent += len(body)
                state.faults += fault is not None
            if fault == "cut":
                self.close_connection = True
                self.connection.close()
                return
            if fault is not None:
                message = f'{{"error": {{"code": {fault}, "message": "a fault"}}}}'
                self._reply(fault, [], message.encode())
                return
            connection = http.client.HTTPConnection(host, timeout=60)
            with contextlib.closing(connection):
                headers = {
                    name: value
                    for name, value in self.headers.items()
                    if name.lower() not in _OF_A_CONNECTION
                }
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                self._reply(answer.status, answer.getheaders(), content)
            with state.lock:
                state.received += len(content)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _reply(self, status: int, headers: list, content: bytes):
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in _OF_A_CONNECTION:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = _answer

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_):
            pass  # the client has gone

    with Server(("127.0.0.1", 0), Handler) as server:
        state.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
