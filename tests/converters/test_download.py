"""Published weights from a stand-in for the Hugging Face hub: what it answers, who asks it, how often."""

import collections
import hashlib
import http.server
import threading

import pytest
from hub_processes import lines, start
from safetensors.torch import save

# Repository -> the status that the stand-in answers with.
REFUSED = {"resnet18.a1_in1k": 429, "resnet34.a1_in1k": 401, "resnet50.a1_in1k": 403, "resnet26.bt_in1k": 404}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def weights():
    from converters.sources import timm

    return save(timm.timm.create_model("test_resnet").state_dict())


@pytest.fixture
def hub(weights):
    """The stand-in's address and a count of its requests: (method, file) -> how many."""
    requests = collections.Counter()

    class Answer(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            owner, repository, *_, file = self.path.strip("/").split("/")
            requests[self.command, file] += 1
            status = REFUSED.get(repository) or (200 if file == "model.safetensors" else 404)
            body = weights if status == 200 else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if body:
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
    address, _ = hub
    limited, gated, forbidden, absent = lines(start(address, tmp_path, *(f"timm/{name}" for name in REFUSED)))
    assert "limits the rate of requests (429): wait" in limited and "hf auth login" in limited
    assert "does not exist" not in limited
    assert "gated, private or does not exist" in gated and "hf auth login" in gated
    assert "refuses access" in forbidden and "HF_TOKEN" in forbidden
    assert "does not have that file or repository" in absent
    for line, name in zip((limited, gated, forbidden, absent), REFUSED, strict=True):
        assert f"timm/{name}" in line and "@random" in line


def test_two_processes_download_a_model_once_and_a_third_works_offline(hub, tmp_path):
    address, requests = hub
    spec = "timm/test_resnet.r160_in1k"
    both = [start(address, tmp_path, spec) for _ in range(2)]
    assert [lines(process) for process in both] == [["ok"], ["ok"]]
    assert requests["GET", "model.safetensors"] == 1
    before = requests.total()
    assert lines(start(address, tmp_path, spec, HF_HUB_OFFLINE="1")) == ["ok"]
    assert requests.total() == before
