"""A stand-in for the endpoint of the Hugging Face hub: models, commits, downloads."""

import base64
import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.commits`: (id, files) in order, for each repository."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _answer(self, status, content=b"", **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(("POST", self.path, self.headers["Authorization"]))
        parts = urlsplit(self.path).path.strip("/").split("/")
        if self.headers["Authorization"] != "Bearer secret":
            self._answer(401, {"error": "Invalid username or password."})
        elif parts == ["api", "repos", "create"]:
            fields = json.loads(body)
            name = f"{fields['organization']}/{fields['name']}"
            self.server.private[name] = fields.get("visibility") == "private"
            self.server.commits.setdefault(name, [])
            self._answer(200, {"url": f"{self.server.address}/{name}"})
        elif parts == ["api", "validate-yaml"]:
            self._answer(200, {"errors": [], "warnings": []})
        elif parts[4] == "preupload":
            files = json.loads(body)["files"]
            how = {"uploadMode": "regular", "shouldIgnore": False}
            modes = [{"path": file["path"], **how} for file in files]
            self._answer(200, {"files": modes})
        elif parts[4] == "commit":
            name = "/".join(parts[2:4])
            lines = [json.loads(line) for line in body.splitlines()]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            commit = hashlib.sha1(body).hexdigest()
            self.server.commits[name].append((commit, files))
            url = f"{self.server.address}/{name}/commit/{commit}"
            self._answer(200, {"commitUrl": url, "commitOid": commit})
        else:
            self._answer(404)

    def _commit(self, name, revision):
        commits = self.server.commits.get(name, [])
        if revision == "main":
            return commits[-1] if commits else None
        return next((c for c in commits if c[0] == revision), None)

    def do_GET(self):
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.asked.append((self.command, path, self.headers["Authorization"]))
        parts = path.split("/")
        if parts[:2] == ["api", "models"]:
            name, revision = "/".join(parts[2:4]), (parts[5:] or ["main"])[0]
            found = self._commit(name, revision)
            if found is None:
                kind = "Revision" if name in self.server.commits else "Repo"
                self._answer(404, X_Error_Code=f"{kind}NotFound")
            elif parts[4:5] == ["tree"]:
                self._answer(200, [self._entry(*file) for file in found[1].items()])
            else:
                siblings = [{"rfilename": file} for file in found[1]]
                self._answer(200, {"id": name, "sha": found[0], "siblings": siblings})
            return
        name, revision, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        found = self._commit(name, revision)
        if found is None or file not in found[1]:
            self._answer(404, X_Error_Code="EntryNotFound")
            return
        content = found[1][file]
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        self._answer(200, content, ETag=etag, X_Repo_Commit=found[0])

    do_HEAD = do_GET

    def _entry(self, path, content):
        digest = hashlib.sha1(content).hexdigest()
        return {"type": "file", "path": path, "size": len(content), "oid": digest}


@contextlib.contextmanager
def serve() -> Iterator[http.server.ThreadingHTTPServer]:
    """Run a hub on this machine; `secret` is the token that may write."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.commits, server.private, server.asked = {}, {}, []
        server.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
