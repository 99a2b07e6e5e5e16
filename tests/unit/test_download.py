"""Downloading PTB-XL: a real HTTP server that may break off, lie or be away."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.tiny_ptbxl import rows_of, write_ptbxl
from trainer.cli import main
from trainer.download import ATTEMPTS, SUMS_NAME, Download, DownloadError, parse_sums
from trainer.ptbxl import open_ptbxl

ROWS = rows_of(["NORM", "LVH"], [1, 9])
FIRST = f"{ROWS[0].name}.dat"


class Archive(ThreadingHTTPServer):
    """Serves a folder with byte ranges; does wrong what a test asks for."""

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.asked = []  # (path, first byte)
        self.cut = {}  # path → how often its answer still breaks off half-way
        self.refusals = {}  # path → status

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/ptb-xl"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.removeprefix("/ptb-xl/")
        start = int(re.search(r"\d+", self.headers.get("Range", "0"))[0])
        self.server.asked.append((name, start))
        file = self.server.folder / name
        if name in self.server.refusals or not file.is_file():
            return self.send_error(self.server.refusals.get(name, 404))
        content = file.read_bytes()
        if start and start >= len(content):
            return self.send_error(416)
        content = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.server.cut.get(name, 0) > 0:
            self.server.cut[name] -= 1
            content = content[: len(content) // 2]
        self.wfile.write(content)
        return None

    def log_message(self, *args):
        """Keep the tests' output quiet."""


@contextmanager
def serving(folder):
    server = Archive(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def archive(tmp_path):
    folder = write_ptbxl(tmp_path / "archive", ROWS)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}" for path in files]
    (folder / SUMS_NAME).write_text("\n".join(lines) + "\n")
    with serving(folder) as server:
        yield server


@pytest.fixture
def waits():
    return []


@pytest.fixture
def download(archive, tmp_path, waits):
    return Download(tmp_path / "copy", archive.url, wait=waits.append)


def fetch_all(download, folds=None, limit=None):
    sums = download.sums()
    download.tables(sums)
    return download.run(download.records(sums, folds, limit))


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_copy_equals_the_archive_and_opens(download, archive, tmp_path):
    assert fetch_all(download) == 2 * len(ROWS)
    original = files_of(archive.folder)
    assert files_of(download.root) == {name: content for name, content in original.items() if name.name != SUMS_NAME}
    assert len(open_ptbxl(download.root, tmp_path / "cache").ecg_ids) == len(ROWS)


def test_a_second_run_fetches_no_record_again(download, archive):
    fetch_all(download)
    archive.asked.clear()
    assert fetch_all(download) == 0
    assert archive.asked == [(SUMS_NAME, 0)]


def test_a_partial_file_is_gone_on_with_from_where_it_ends(download, archive):
    whole = (archive.folder / FIRST).read_bytes()
    partial = download.root / f"{FIRST}.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(whole[:700])
    fetch_all(download)
    assert (FIRST, 700) in archive.asked
    assert (download.root / FIRST).read_bytes() == whole
    assert not partial.exists()


def test_a_partial_file_that_is_whole_is_taken_as_it_is(download, archive):
    whole = (archive.folder / FIRST).read_bytes()
    partial = download.root / f"{FIRST}.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(whole)
    fetch_all(download)
    assert (download.root / FIRST).read_bytes() == whole


def test_a_connection_that_breaks_off_is_taken_up_again(download, archive, waits):
    archive.cut[FIRST] = 2
    fetch_all(download)
    assert (download.root / FIRST).read_bytes() == (archive.folder / FIRST).read_bytes()
    assert [start > 0 for name, start in archive.asked if name == FIRST] == [False, True, True]
    assert waits == [1.0, 2.0]


def test_a_busy_server_is_asked_again_and_given_up_on_in_the_end(download, archive, waits):
    archive.refusals[SUMS_NAME] = 503
    with pytest.raises(DownloadError, match="503"):
        download.sums()
    assert len(archive.asked) == ATTEMPTS
    assert len(waits) == ATTEMPTS - 1


def test_a_server_that_says_no_is_not_asked_again(download, archive):
    archive.refusals[SUMS_NAME] = 403
    with pytest.raises(DownloadError, match="403"):
        download.sums()
    assert len(archive.asked) == 1


def test_content_with_another_hash_is_refused_and_never_gets_its_name(download, archive):
    damaged = archive.folder / FIRST
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x55")
    with pytest.raises(DownloadError, match="SHA-256"):
        fetch_all(download)
    assert not (download.root / FIRST).exists()
    assert not (download.root / f"{FIRST}.partial").exists()


def test_a_file_that_was_damaged_on_disk_is_fetched_again(download, archive):
    fetch_all(download)
    (download.root / FIRST).write_bytes(b"damaged")
    assert fetch_all(download) == 1
    assert (download.root / FIRST).read_bytes() == (archive.folder / FIRST).read_bytes()


def test_folds_and_a_limit_choose_the_records(download):
    assert fetch_all(download, folds=[9]) == 4
    assert fetch_all(download, limit=1) == 2
    assert len(list(download.root.rglob("*.dat"))) == 3


def test_an_archive_without_a_record_it_should_have_says_which(download):
    sums = download.sums()
    download.tables(sums)
    del sums[FIRST]
    with pytest.raises(DownloadError, match=FIRST):
        download.records(sums, None, None)


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "records100/../../escape"])
def test_a_name_that_leaves_the_folder_is_refused(name):
    with pytest.raises(DownloadError, match="cannot be read"):
        parse_sums(f"{'0' * 64}  {name}\n")


@pytest.mark.parametrize("line", ["<html>", "abc  LICENSE.txt"])
def test_a_list_of_hashes_that_is_none_is_refused(line):
    with pytest.raises(DownloadError, match="cannot be read"):
        parse_sums(line)


def test_a_source_that_is_not_http_is_refused(tmp_path):
    with pytest.raises(DownloadError, match="http"):
        Download(tmp_path, "file:///etc")


def test_the_command_reports_what_it_fetched(archive, tmp_path, capsys):
    asked = ["download", "--out", str(tmp_path / "copy"), "--source", archive.url, "--folds", "9", "--json"]
    assert main(asked) == 0
    assert json.loads(capsys.readouterr().out) == {
        "root": str(tmp_path / "copy"), "records": 2, "files": 4, "fetched": 4,
    }  # fmt: skip


def test_offline_the_command_says_so_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("trainer.download.FIRST_WAIT_S", 0.0)
    with serving(tmp_path) as server:
        gone = server.url
    assert main(["download", "--out", str(tmp_path / "copy"), "--source", gone]) == 2
    message = capsys.readouterr().err
    assert message.startswith("ecg-trainer: error: http://127.0.0.1:")
    assert "cannot be reached" in message
    assert message.count("\n") == 1
