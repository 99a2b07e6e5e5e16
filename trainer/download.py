"""Fetching PTB-XL from PhysioNet, file by file: every file is checked, whatever is there already is kept.

Wagner et al. 2020, https://doi.org/10.13026/kfzx-aw45 (version 1.0.3, CC BY 4.0). Standard library only.
"""

from __future__ import annotations

import csv
import hashlib
import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edge.errors import EcgEdgeError

SOURCE = "https://physionet.org/files/ptb-xl/1.0.3/"
SUMS_NAME = "SHA256SUMS.txt"
TABLES = ("ptbxl_database.csv", "scp_statements.csv", "LICENSE.txt")

WORKERS = 8
ATTEMPTS = 4
FIRST_WAIT_S = 1.0
TIMEOUT_S = 30.0
BLOCK_BYTES = 1 << 16

Wait = Callable[[float], None]
TRANSIENT = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


class DownloadError(EcgEdgeError):
    """A file of the data set that cannot be had."""

    def __init__(self, url: str, problem: str) -> None:
        self.url = url
        self.problem = problem
        super().__init__(
            f"{url}: {problem}; what is there is kept and the same command goes on from it "
            "(PTB-XL may also be copied by hand: any copy of its own layout will do)"
        )


@dataclass(frozen=True)
class Wanted:
    """One file of the data set and the SHA-256 it must have."""

    name: str
    sha256: str


class Download:
    """A copy of PTB-XL in the making. Nothing is named as the data set names it before its hash is right."""

    def __init__(self, root: Path, source: str = SOURCE, wait: Wait = time.sleep) -> None:
        """source: where the data set's own layout is served, http or https."""
        if urllib.parse.urlsplit(source).scheme not in ("http", "https"):
            raise DownloadError(source, "not an http or https address")
        self.root = root
        self.source = source.rstrip("/") + "/"
        self._wait = wait

    def sums(self) -> dict[str, str]:
        """Fetch the list of all files, name → SHA-256."""
        return parse_sums(self._fetch(SUMS_NAME).decode(), self.source)

    def tables(self, sums: dict[str, str]) -> None:
        """Fetch the tables and the licence."""
        for wanted in self._named(sums, TABLES):
            self._ensure(wanted)

    def records(self, sums: dict[str, str], folds: Sequence[int] | None, limit: int | None) -> list[Wanted]:
        """Return the 100 Hz files of these folds (None: all), of the first `limit` records; needs the tables."""
        with (self.root / TABLES[0]).open(newline="") as table:
            rows = [row for row in csv.DictReader(table) if folds is None or int(float(row["strat_fold"])) in folds]
        names = [row["filename_lr"] for row in rows[:limit]]
        return self._named(sums, (f"{name}{suffix}" for name in names for suffix in (".dat", ".hea")))

    def run(self, files: Sequence[Wanted], on_file: Callable[[], None] = lambda: None) -> int:
        """Fetch what is not there yet, several at a time; return how many had to be fetched."""
        fetched = 0
        pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="download")
        try:
            for new in pool.map(self._ensure, files):
                fetched += new
                on_file()
        finally:
            pool.shutdown(cancel_futures=True)
        return fetched

    def _named(self, sums: dict[str, str], names: Iterable[str]) -> list[Wanted]:
        try:
            return [Wanted(name, sums[name]) for name in names]
        except KeyError as missing:
            raise DownloadError(self.source + SUMS_NAME, f"it does not list {missing.args[0]}") from None

    def _ensure(self, wanted: Wanted) -> bool:
        """Make one file stand where it should, resuming a partial one; return whether it had to be fetched."""
        path = self.root / wanted.name
        if path.is_file() and _sha256(path) == wanted.sha256:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        self._retrying(wanted.name, lambda: self._append(wanted.name, partial))
        if _sha256(partial) != wanted.sha256:
            partial.unlink()
            raise DownloadError(self.source + wanted.name, "what came does not have the SHA-256 that is stated")
        partial.replace(path)
        return True

    def _append(self, name: str, partial: Path) -> None:
        have = partial.stat().st_size if partial.exists() else 0
        request = self._request(name)
        if have:
            request.add_header("Range", f"bytes={have}-")
        try:
            with (
                _open(request) as answer,
                partial.open("ab" if answer.status == http.HTTPStatus.PARTIAL_CONTENT else "wb") as file,
            ):
                while block := answer.read(BLOCK_BYTES):
                    file.write(block)
                if answer.length:
                    raise ConnectionError(f"the connection was lost {answer.length} bytes before the end")
        except urllib.error.HTTPError as error:
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # there was nothing left to fetch
                raise

    def _fetch(self, name: str) -> bytes:
        content = b""

        def read() -> None:
            nonlocal content
            with _open(self._request(name)) as answer:
                content = answer.read()

        self._retrying(name, read)
        return content

    def _request(self, name: str) -> urllib.request.Request:
        return urllib.request.Request(self.source + urllib.parse.quote(name))  # noqa: S310  __init__ checks the scheme

    def _retrying(self, name: str, attempt: Callable[[], None]) -> None:
        """Try again after what may pass: a lost connection, a busy server."""
        for left in reversed(range(ATTEMPTS)):
            try:
                return attempt()
            except TRANSIENT as error:
                if left == 0 or not _may_pass(error):
                    raise DownloadError(self.source + name, _reason(error)) from None
                self._wait(FIRST_WAIT_S * 2 ** (ATTEMPTS - 1 - left))
        return None


def parse_sums(text: str, source: str = SOURCE) -> dict[str, str]:
    """Return name → SHA-256 from lines as sha256sum writes them; a name that leaves the folder is refused."""
    sums: dict[str, str] = {}
    for line in text.splitlines():
        digest, _, name = line.partition(" ")
        name = name.lstrip(" *").removeprefix("./")
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or len(digest) != hashlib.sha256().digest_size * 2:
            raise DownloadError(source + SUMS_NAME, f"a line of it cannot be read: {line[:80]!r}")
        sums[name] = digest.lower()
    return sums


def _open(request: urllib.request.Request) -> http.client.HTTPResponse:
    return urllib.request.urlopen(request, timeout=TIMEOUT_S)  # type: ignore[no-any-return]  # noqa: S310  see _request


def _may_pass(error: Exception) -> bool:
    """A server that says no (4xx) will say it again; anything else may not."""
    return not isinstance(error, urllib.error.HTTPError) or error.code >= 500 or error.code == 429


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return f"cannot be reached ({cause})"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
