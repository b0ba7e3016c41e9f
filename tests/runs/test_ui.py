"""The page of runs: its data, its walls, and what a browser makes of it."""

import json
import shutil
import subprocess
import threading
import urllib.error
import urllib.request

import pytest
from conftest import replace

from jaxnets.cli import ui
from jaxnets.core.errors import UsageError
from jaxnets.optim import AdamW
from jaxnets.runs.train import train

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def folder(experiment, blobs, tmp_path_factory):
    """Two runs, one with a name that would be markup."""
    root = tmp_path_factory.mktemp("ui")
    base = replace(experiment, steps=14)
    train(base, dataset=blobs, run_dir=root / "runs" / "a<b>", progress="none")
    other = replace(base, optimizer=AdamW(1e-4))
    train(other, dataset=blobs, run_dir=root / "runs" / "deep" / "slow", progress="none")
    (root / "secret.json").write_text("{}")
    return root


@pytest.fixture
def address(folder):
    """The page, served."""
    server = ui.make_server(str(folder / "runs"), 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
        return answer.read().decode(), dict(answer.headers)


def test_data_reports_and_security_of_the_server(address, folder):
    runs = {run["name"]: run for run in json.loads(get(f"{address}/api/runs")[0])["runs"]}
    assert runs.keys() == {"a<b>", "deep/slow"}
    assert runs["deep/slow"]["step"] == 14
    assert runs["deep/slow"]["config"]["optimizer.learning_rate"] == 1e-4
    records = json.loads(get(f"{address}/api/records?run=deep%2Fslow")[0])
    written = [json.loads(line) for line in (folder / "runs/deep/slow/metrics.jsonl").read_text().splitlines()]
    assert sorted(records, key=str) == sorted(written, key=str)
    page, headers = get(f"{address}/report/deep/slow")
    assert "Curves" in page
    assert "script-src 'none'" in headers["Content-Security-Policy"]
    page, headers = get(address + "/")
    assert "http" not in page.replace("http://www.w3.org", "")  # nothing from elsewhere
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    for path in ("/report/../secret.json", "/report/..%2Fsecret.json", "/secret.json", "/api/records?run=.."):
        with pytest.raises(urllib.error.HTTPError) as error:
            get(address + path)
        assert error.value.code == 404
    with pytest.raises(urllib.error.HTTPError) as error:
        get(address + "/api/runs", Host="evil.example")
    assert error.value.code == 403


def test_a_used_port_and_a_missing_folder_are_refused(address, tmp_path):
    with pytest.raises(UsageError, match="port"):
        ui.make_server(str(tmp_path), int(address.rsplit(":", 1)[1]))
    with pytest.raises(UsageError, match="there is no folder"):
        ui.make_server(str(tmp_path / "nothing"), 0)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_a_browser_draws_the_table_the_curves_and_what_differs(address, tmp_path):
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr", "--virtual-time-budget=6000", "--dump-dom", address,
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    page = done.stdout
    assert "a&lt;b&gt;" in page
    assert page.count("<polyline") >= 4  # loss and accuracy of two runs, and training curves
    assert "optimizer.learning_rate" in page
    assert "settings that differ" in page
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console, console
