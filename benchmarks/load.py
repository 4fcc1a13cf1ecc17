"""The clients. Each is the same for both sides of a comparison.

Rules:
1. Every transfer is checked: status, length and, if the client hashes, the digest. A wrong transfer ends the measure.
2. A client that costs CPU is a process of its own, so that this process does not disturb it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.command import UnmeasurableError
from benchmarks.programs import ROOT, find

TRANSFER_BOUND_S = 600.0


@dataclass(frozen=True, slots=True)
class BenchmarkBlob:
    """Random bytes at the origin, by digest."""

    digest: str
    size_bytes: int


def _output(command: Sequence[str]) -> str:
    """The output of a program; raises UnmeasurableError if it fails or hangs."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TRANSFER_BOUND_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise UnmeasurableError(f"{' '.join(command)} took over {TRANSFER_BOUND_S:g} s") from error
    if done.returncode != 0:
        raise UnmeasurableError(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def _curl(*arguments: str) -> list[str]:
    return [find("curl"), "--silent", "--show-error", "--max-time", f"{TRANSFER_BOUND_S:g}", *arguments]


def _curl_once(url: str, output: Path) -> list[str]:
    return _curl("--output", str(output), "--write-out", "%{http_code} %{size_download} %{time_total}", url)


def _checked(url: str, blob: BenchmarkBlob, status: int, size_bytes: int) -> None:
    if (status, size_bytes) != (200, blob.size_bytes):
        raise UnmeasurableError(f"{url} gave status {status} and {size_bytes} of {blob.size_bytes} bytes")


def curl_s(url: str, blob: BenchmarkBlob, output: Path = Path("/dev/null")) -> float:
    """Seconds of one GET by curl, by curl's own count, which leaves out its start."""
    status, size_bytes, seconds = _output(_curl_once(url, output)).split()
    _checked(url, blob, int(status), int(size_bytes))
    return float(seconds)


def curl_together(urls: Sequence[tuple[str, BenchmarkBlob]]) -> None:
    """GET all URLs at once, to /dev/null."""
    with contextlib.ExitStack() as stack:
        curls = []
        for url, _ in urls:
            curl = stack.enter_context(
                subprocess.Popen(_curl_once(url, Path("/dev/null")), stdout=subprocess.PIPE, text=True)
            )
            stack.callback(curl.kill)  # called before the process is waited for; without effect on an ended process
            curls.append(curl)
        for (url, blob), curl in zip(urls, curls, strict=True):
            status, size_bytes, _ = curl.communicate()[0].split()
            _checked(url, blob, int(status), int(size_bytes))


def runtime_s(url: str, blob: BenchmarkBlob, output: Path) -> float:
    """Seconds of one GET by a client that writes and hashes (`benchmarks.receive`)."""
    answer = json.loads(_output([sys.executable, "-m", "benchmarks.receive", url, str(output)]))
    _checked(url, blob, answer["status"], answer["size_bytes"])
    if answer["digest"] != blob.digest:
        raise UnmeasurableError(f"{url} gave bytes with the digest {answer['digest']}")
    return float(answer["seconds"])


def small_requests_per_s(url: str, requests: int, connections: int) -> float:
    """Rate of GETs of one URL over kept-alive connections: by ab if it is installed, else by curl.

    ab (Debian's apache2-utils) costs less CPU than curl, so its rate is closer to the server's. ab speaks HTTP/1.0 with
    Keep-Alive.
    """
    if shutil.which("ab") is not None:
        text = _output(["ab", "-k", "-q", "-n", str(requests), "-c", str(connections), url])
        return ab_rate(text, requests)
    # Fragments are not sent, so all `requests` requests are the same.
    numbered = f"{url}#[1-{requests}]"
    started = time.perf_counter()
    to_null = ("--output", "/dev/null", "--write-out", "%{http_code}\n")
    statuses = _output(_curl("--parallel", "--parallel-max", str(connections), *to_null, numbered)).split()
    seconds = time.perf_counter() - started
    if statuses != ["200"] * requests:
        raise UnmeasurableError(f"{url} gave other statuses than 200: {sorted(set(statuses))}")
    return requests / seconds


def ab_rate(text: str, requests: int) -> float:
    """The rate in ab's report; raises UnmeasurableError unless all requests succeeded on kept-alive connections."""
    figures = dict(re.findall(r"^([A-Z][A-Za-z0-9 -]+):\s+([0-9.]+)", text, flags=re.MULTILINE))
    names = ("Complete requests", "Failed requests", "Non-2xx responses", "Keep-Alive requests")
    complete, failed, refused, kept = (int(figures.get(name, 0)) for name in names)
    # A server may end a connection after some number of requests: nginx does after 1,000.
    if complete != requests or failed or refused or kept < 0.9 * requests:
        raise UnmeasurableError(
            f"of {requests} requests ab completed {complete}, {failed} failed, {refused} got another status than 200,"
            f" and {kept} were on kept-alive connections"
        )
    return float(figures["Requests per second"])


def first_byte_s(url: str, blob: BenchmarkBlob) -> float:
    """Seconds from before the connection to the first byte of the body. The rest of the body is read afterwards."""
    with _asked(url) as (started, response):
        first = response.read(1)
        seconds = time.perf_counter() - started
        rest = response.read()
    _checked(url, blob, response.status, len(first) + len(rest))
    return seconds


def whole_s(url: str, blob: BenchmarkBlob) -> float:
    """Seconds from before the connection to the last byte of the body."""
    with _asked(url) as (started, response):
        body = response.read()
        seconds = time.perf_counter() - started
    _checked(url, blob, response.status, len(body))
    return seconds


@contextlib.contextmanager
def _asked(url: str) -> Iterator[tuple[float, http.client.HTTPResponse]]:
    """The time before the connection began, by `perf_counter`, and the answer to GET with its headers read."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=TRANSFER_BOUND_S)
    with contextlib.closing(connection):
        started = time.perf_counter()
        connection.request("GET", parts.path)
        yield started, connection.getresponse()
