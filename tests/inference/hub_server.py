"""A stand-in for Hugging Face's hub: the part of its HTTP API that we use."""

import base64
import contextlib
import hashlib
import http.server
import json
import os
import re
import threading


class HubServer(http.server.ThreadingHTTPServer):
    """Holds repositories in memory.

    Attributes:
        files: Repository -> file name -> content.
        refusals: Repository -> status, error code and message of every answer.
        log: Method and path of every request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.refusals, self.log = {}, {}, []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    @classmethod
    @contextlib.contextmanager
    def running(cls):
        server = cls()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
            server.server_close()

    def environment(self, folder):
        """Returns the environment of a process that takes this server for the hub."""
        return os.environ | {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": "secret",
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def commit_of(self, repository):
        content = repr(sorted(self.files[repository].items())).encode()
        return hashlib.sha1(content).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def _answer(self, status, content=b"", headers=()):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        if "Content-Length" not in dict(headers):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refuses(self, repository):
        """Answers with the refusal of a repository, if it has one."""
        if repository not in self.server.refusals:
            return False
        status, code, message = self.server.refusals[repository]
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self._answer(status, {"error": message}, headers)
        return True

    def _missing(self, code):
        self._answer(404, {"error": code}, {"X-Error-Code": code})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.log.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not found:
            return self._api(path)
        repository, _, name = found.groups()
        if self._refuses(repository):
            return None
        if repository not in self.server.files:
            return self._missing("RepoNotFound")
        content = self.server.files[repository].get(name)
        if content is None:
            return self._missing("EntryNotFound")
        self._answer(
            200,
            content,
            {
                "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
                "X-Repo-Commit": self.server.commit_of(repository),
                "Content-Length": str(len(content)),
            },
        )

    def _api(self, path):
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/.*)?", path)
        if not found or found.group(1) not in self.server.files:
            return self._missing("RepoNotFound")
        repository = found.group(1)
        names = [{"rfilename": name} for name in self.server.files[repository]]
        sha = self.server.commit_of(repository)
        self._answer(200, {"id": repository, "sha": sha, "siblings": names})

    def do_POST(self):
        self.server.log.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        files = self.server.files
        if self.headers.get("Authorization") != "Bearer secret":
            return self._answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            repository = f"{asked.get('organization') or 'me'}/{asked['name']}"
            status = 409 if repository in files else 200
            files.setdefault(repository, {})
            url = f"{self.server.url}/{repository}"
            return self._answer(status, {"url": url, "name": repository})
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        repository, what = re.fullmatch(
            r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path
        ).groups()
        if self._refuses(repository):
            return None
        if what == "preupload":
            kinds = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": kinds})
        for line in body.splitlines():
            item = json.loads(line)
            if item["key"] == "file":
                content = base64.b64decode(item["value"]["content"])
                files[repository][item["value"]["path"]] = content
        commit = self.server.commit_of(repository)
        url = f"{self.server.url}/{repository}/commit/{commit}"
        return self._answer(
            200, {"success": True, "commitUrl": url, "commitOid": commit}
        )
