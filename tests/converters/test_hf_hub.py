"""Repositories from a stand-in for the Hugging Face hub: what it is asked for, how often, what its refusals become."""

import collections
import hashlib
import http.server
import json
import threading

import hub_folders
import pytest
from hub_processes import lines, start

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REFUSED = {"limited": 429, "gated": 401, "forbidden": 403, "absent": 404}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    hub_folders.transformers_case("vit", folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ndatasets:\n- beans\n---\n# A card")
    (folder / "tokenizer.json").write_text("{}")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(files):
    """The stand-in's address and a count of its requests: (method, file or "info" or "tree") -> how many."""
    requests = collections.Counter()

    class Answer(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            path = self.path.partition("?")[0].strip("/").split("/")
            api = path[:2] == ["api", "models"]
            repository = path[3] if api else path[1]
            what = ("tree" if "tree" in path else "info") if api else path[-1]
            requests[self.command, what] += 1
            revision = path[path.index("tree" if "tree" in path else "revision") + 1] if api else path[3]
            status = REFUSED.get(repository) or (200 if revision in ("main", COMMIT) else 404)
            if api and what == "tree":
                entries = [
                    {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                    for name, body in files.items()
                ]
                body = json.dumps(entries).encode()
            elif api:
                body = json.dumps({"id": f"o/{repository}", "sha": COMMIT, "siblings": []}).encode()
            else:
                body = files.get(what, b"")
            self.send_response(status)
            if status == 404 and revision not in ("main", COMMIT):
                self.send_header("X-Error-Code", "RevisionNotFound")
            body = body if status == 200 else b""
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


def test_each_refusal_says_what_helps(hub, tmp_path):
    specs = [*(f"hf/o/{name}" for name in REFUSED), "hf/o/vit@v2"]
    limited, gated, forbidden, absent, revision = lines(start(hub[0], tmp_path, *specs))
    assert "limits the rate of requests (429): wait" in limited
    assert "gated, private or does not exist" in gated and "hf auth login" in gated
    assert "refuses access" in forbidden and "HF_TOKEN" in forbidden
    assert "does not have that file or repository" in absent
    assert "has no branch, tag or commit 'v2'" in revision
    for line, name in zip((limited, gated, forbidden, absent), REFUSED, strict=True):
        assert f"hf/o/{name}" in line and "write hf//path/to/folder" in line and "@random" not in line


def test_two_processes_download_a_repository_once_and_a_third_works_offline(hub, tmp_path):
    address, requests = hub
    both = [start(address, tmp_path, "hf/o/vit", "--info") for _ in range(2)]
    for process in both:
        (line,) = lines(process)
        info = json.loads(line)
        assert info["repository"]["revision"] == COMMIT and info["repository"]["name"] == "o/vit"
        assert info["license"] == "apache-2.0" and info["pretraining_data"] == "beans"
        assert COMMIT in info["notes"][0]
    assert requests["GET", "model.safetensors"] == 1 and requests["GET", "config.json"] == 1
    assert not requests["GET", "tokenizer.json"]
    before = requests.total()
    found, other = lines(start(address, tmp_path, "hf/o/vit", "hf/o/other", HF_HUB_OFFLINE="1"))
    assert found == "ok" and requests.total() == before
    assert "the repository's files are not on this machine and cannot be downloaded" in other


def test_checking_downloads_no_weights_and_random_ones_need_none(hub, tmp_path):
    address, requests = hub
    assert lines(start(address, tmp_path, "hf/o/vit", "--check")) == ["ok"]
    assert lines(start(address, tmp_path, "hf/o/vit@random:3")) == ["ok"]
    assert not any(file == "model.safetensors" for _, file in requests)
