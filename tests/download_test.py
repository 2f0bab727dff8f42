"""Downloads from a server on this machine that fails in several ways."""

import contextlib
import hashlib
import http.server
import threading
import time
import urllib.error

import pytest

from arniqa_jax import errors
from arniqa_jax.weights import download

CONTENT = b"PK\x03\x04" + bytes(range(256)) * 40


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; `server.tricks`, one for each request, say what goes wrong."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        trick = self.server.tricks.pop(0) if self.server.tricks else None
        content, etag = self.server.content, self.server.etag
        start = 0
        if isinstance(trick, int):
            self.send_response(trick)
            self.send_header("Retry-After", "7")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if asked and self.headers.get("If-Range") == etag and trick != "no range":
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start > len(content):
                self.send_error(416)
                return
            self.send_response(206)
            shown = start + 7 if trick == "other range" else start
            last = len(content) - 1
            self.send_header("Content-Range", f"bytes {shown}-{last}/{last + 1}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", etag)
        self.end_headers()
        if trick in ("truncated", "stalled"):
            self.wfile.write(content[start : start + 3000])
            self.wfile.flush()
            if trick == "stalled":
                self.server.release.wait(20)
            self.close_connection = True
            return
        self.wfile.write(content[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def waits(monkeypatch):
    """The seconds that were waited between attempts, which no test spends."""
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


@pytest.fixture
def server(monkeypatch, waits):
    monkeypatch.setattr(download, "STALL_SECONDS", 0.3)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.tricks, server.asked, server.release = [], [], threading.Event()
        server.content, server.etag = CONTENT, '"one"'
        server.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


def _fetch(server, path, **options):
    address = f"{server.address}/ARNIQA.pth"
    return download.fetch(address, path / "ARNIQA.pth", **options)


def test_once(server, tmp_path):
    for _ in range(2):
        assert _fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["ARNIQA.pth", "pins.json"]


@pytest.mark.parametrize(
    ("tricks", "asked"),
    [
        (["truncated"], [None, "bytes=3000-"]),
        (["stalled", "truncated"], [None, "bytes=3000-", "bytes=6000-"]),
        (["truncated", "no range"], [None, "bytes=3000-"]),
        (["truncated", "other range"], [None, "bytes=3000-", None]),
        ([500, 429], [None, None, None]),
    ],
)
def test_it_is_whole_in_the_end(server, tmp_path, tricks, asked):
    server.tricks = list(tricks)
    assert _fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == asked


def test_a_new_file_on_the_server_is_not_mixed_with_the_old(server, tmp_path):
    server.tricks = ["truncated"] * download.ATTEMPTS
    server.content = CONTENT * 2
    with pytest.raises(OSError, match="ended after"):
        _fetch(server, tmp_path)
    server.content, server.etag = CONTENT, '"two"'
    assert _fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_missing_file_is_not_asked_for_again(server, waits, tmp_path):
    server.tricks = [404]
    with pytest.raises(urllib.error.HTTPError, match="404") as error:
        _fetch(server, tmp_path)
    with contextlib.closing(error.value):
        assert server.asked == [None] and not waits


def test_each_wait_is_longer_than_the_one_before(server, waits, tmp_path):
    server.tricks = ["truncated"] * 3
    _fetch(server, tmp_path)
    assert waits == [1, 2, 4]


def test_the_server_may_ask_for_a_longer_wait(server, waits, tmp_path):
    server.tricks = [503]
    _fetch(server, tmp_path)
    assert waits == [7]


def test_a_page_instead_of_weights(server, tmp_path):
    server.content = b"<!DOCTYPE html><p>Please sign in."
    with pytest.raises(errors.CheckpointError, match=r"not a PyTorch file.*<!DO"):
        _fetch(server, tmp_path)
    assert not list(tmp_path.glob("ARNIQA*"))


def test_another_file_than_the_first_is_refused(server, tmp_path):
    path = _fetch(server, tmp_path)
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(errors.CheckpointError, match="not the published file"):
        _fetch(server, tmp_path)
    path.unlink()
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(errors.CheckpointError, match="not the published file"):
        _fetch(server, tmp_path)
    assert not path.exists()
    server.content = CONTENT
    assert _fetch(server, tmp_path).read_bytes() == CONTENT


PIN = download.Pin(len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def test_a_pinned_file(server, tmp_path):
    assert _fetch(server, tmp_path, pin=PIN).read_bytes() == CONTENT
    assert not (tmp_path / "pins.json").exists()


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"!", CONTENT[:-1], b"<html>"])
def test_another_file_than_the_pinned_one(server, tmp_path, content):
    server.content = content
    with pytest.raises(errors.CheckpointError) as error:
        _fetch(server, tmp_path, pin=PIN)
    assert f"expected {PIN.size} bytes with the SHA-256 {PIN.sha256}" in str(
        error.value
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options", [{"pin": download.Pin(5000, PIN.sha256)}, {"limit": 5000}]
)
def test_a_file_without_end_does_not_fill_the_disk(server, tmp_path, options):
    with pytest.raises(errors.CheckpointError, match="more than 5000 bytes"):
        _fetch(server, tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_nobody_answers(waits, tmp_path):
    with pytest.raises(OSError, match="refused"):
        download.fetch("http://127.0.0.1:9/ARNIQA.pth", tmp_path / "ARNIQA.pth")
