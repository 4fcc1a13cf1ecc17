"""The benchmarks' own arithmetic, report and command line. What they measure is not tested here."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from rich.console import Console

from benchmarks import __main__, load, procfs, programs, report
from benchmarks.command import Command, Measure, UnmeasurableError, run_measures
from benchmarks.datapath import bare_cache
from benchmarks.datapath import command as datapath
from benchmarks.namespaces import network
from benchmarks.scheduler import command as scheduler
from benchmarks.testbed import Subject
from benchmarks.transfer import command as transfer
from peer.oci.digest import Digest
from peer.store.record import Header, encode_entry, encode_header

AB_REPORT = """\
Complete requests:      100
Failed requests:        0
Keep-Alive requests:    100
Requests per second:    1754.39 [#/sec] (mean)
"""


def test_ratios_are_taken_pair_by_pair() -> None:
    # The machine was twice as slow in the second pair: the medians' ratio would be 1.5 / 2.25.
    assert report.ratios([1.0, 2.0], [1.5, 3.0]) == [pytest.approx(2 / 3), pytest.approx(2 / 3)]


def test_ratios_refuse_sides_of_different_lengths() -> None:
    with pytest.raises(ValueError, match="shorter"):
        report.ratios([1.0, 2.0], [1.0])


def test_a_figure_is_the_median_between_its_extremes() -> None:
    figure = report.Figure("x_s", [3.0, 1.0, 2.00006], report.Bar("<=", 2.0), {"ours_s": 1.23456})
    assert figure.as_json() == {
        "value": 2.0,
        "min": 1.0,
        "max": 3.0,
        "runs": 3,
        "bar": "<= 2",
        "met": False,  # by the value itself, not by the one that is rounded for the eye
        "sides": {"ours_s": 1.235},
    }


@pytest.mark.parametrize(
    ("bar", "value", "met"),
    [
        (report.Bar(">=", 0.9), 0.9, True),
        (report.Bar(">=", 0.9), 0.89, False),
        (report.Bar("<=", 1.1), 1.1, True),
        (report.Bar("<=", 1.1), 1.11, False),
        (report.Bar("<", 15), 15, False),
    ],
)
def test_a_bar_includes_its_limit_as_its_sign_says(bar: report.Bar, value: float, met: bool) -> None:
    assert report.Figure("x", [value], bar).met is met


def test_a_figure_without_a_bar_is_neither_met_nor_missed() -> None:
    assert report.Figure("x", [1.0]).met is None


def fails(why: Exception) -> list[report.Figure]:
    raise why


def command(*measures: Measure[None]) -> Command[None]:
    return Command("trial", "", measures, lambda _: None, lambda _: pytest.fail("not opened"), dict)


def run(*measures: Measure[None], only: tuple[str, ...] = ()) -> report.Report:
    result = report.Report("trial", {"cores": 2}, {"p2pd": "1"})
    run_measures(command(*measures), None, only, result, lambda _: None)
    return result


def gives(*names: str) -> Measure[None]:
    return Measure(names, lambda _: [report.Figure(name, [1.0]) for name in names])


def test_a_measure_that_fails_does_not_end_the_others() -> None:
    broken: Measure[None] = Measure(("a", "b"), lambda _: fails(UnmeasurableError("no nginx")))
    result = run(broken, gives("c"))
    assert result.failures == {"a": "no nginx", "b": "no nginx"}
    assert [figure.name for figure in result.figures] == ["c"]


def test_our_own_mistakes_are_not_failures_of_a_measure() -> None:
    with pytest.raises(ZeroDivisionError):
        run(Measure(("a",), lambda _: fails(ZeroDivisionError())))


def test_only_the_figures_asked_for_are_measured_and_reported() -> None:
    never: Measure[None] = Measure(("a",), lambda _: pytest.fail("not asked for"))
    assert [figure.name for figure in run(never, gives("b", "c"), only=("c",)).figures] == ["c"]


def test_the_report_as_json_and_as_a_table() -> None:
    result = run(gives("a"))
    result.failures["b"] = "why"
    shown = result.as_json()
    assert json.loads(json.dumps(shown)) == shown
    assert set(shown) == {"format", "command", "machine", "versions", "figures", "failures"}
    assert shown["figures"]["a"]["value"] == 1.0
    text = io.StringIO()
    result.print(Console(file=text, width=80))
    assert "benchmarks trial" in text.getvalue()
    assert "machine: cores 2" in text.getvalue()


def test_the_machine_can_be_written_as_json() -> None:
    assert {"cores", "kernel", "python"} <= set(json.loads(json.dumps(report.machine())))


@pytest.mark.parametrize("module", [datapath, scheduler, transfer])
def test_every_bar_is_for_a_figure_that_is_measured_once(module: Any) -> None:
    figures = module.COMMAND.figures
    assert set(module.BARS) <= set(figures)
    assert len(set(figures)) == len(figures)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["datapath", "--runs", "0"],
        ["datapath", "--runs", "five"],
        ["datapath", "--only", "nothing"],
        ["datapath", "--size", "0MiB"],
        ["datapath", "--size", "1GB"],
    ],
)
def test_wrong_use_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        __main__.main(arguments)
    assert exit_info.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_what_is_not_asked_for_is_not_loaded() -> None:
    told = """if True:
        import sys
        from benchmarks import __main__
        __main__.parser(["cluster"])
        print("trio" in sys.modules)
        from benchmarks import suite
        print("matplotlib" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", told], cwd=programs.ROOT, capture_output=True, check=True, text=True)
    assert done.stdout.split() == ["False", "False"]


def test_each_command_is_told() -> None:
    told = __main__.parser().format_help()
    assert all(f"\n    {name}" in told for name in __main__.NAMES)


def test_the_defaults_are_those_of_the_bars() -> None:
    options = __main__.parser().parse_args(["datapath"])
    assert (options.runs, options.size, options.only) == (5, 2**30, [])


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnmeasurableError, match="apt-get install docker-registry"):
        programs.find("docker-registry")


def test_a_program_that_ends_at_once_is_told_with_its_log(tmp_path: Path) -> None:
    dies = [sys.executable, "-c", "raise SystemExit('no such thing')"]
    with (
        programs.running("it", dies, programs.free_address(), tmp_path / "log") as program,
        pytest.raises(UnmeasurableError, match=r"it ended: no such thing"),
    ):
        programs.wait_until_served(program, "/", [200])


def test_p2pd_does_not_scrub_while_it_is_measured(tmp_path: Path) -> None:
    with (
        programs.running("it", ["sleep", "60"], programs.free_address(), tmp_path / "log") as origin,
        programs.p2pd(tmp_path / "p2pd", origin) as (program, _),
    ):
        words = program.process.args
    assert isinstance(words, list)
    assert "--scrub-rate=0" in words


def test_a_receiver_is_asked_only_once_all_pieces_are_in_its_record(tmp_path: Path) -> None:
    blob = load.BenchmarkBlob(digest := Digest.from_raw(bytes(32)), 2 * 2**20)
    nobody = programs.Program("p2pd", subprocess.Popen(["true"]), programs.free_address(), tmp_path / "log", 0.0)
    receiver = Subject(nobody, nobody.address, tmp_path)
    assert not transfer.is_complete(receiver, blob)
    (record := tmp_path / "blobs/00" / f"{64 * '0'}.record").parent.mkdir(parents=True)
    for index in range(2):
        assert not transfer.is_complete(receiver, blob)
        with record.open("ab") as file:
            file.write(b"" if index else encode_header(Header(digest, blob.size_bytes, 2**20, "")))
            file.write(encode_entry(index))
    with pytest.raises(FileNotFoundError, match="admin"):  # there is no secret with which to ask
        transfer.is_complete(receiver, blob)
    nobody.process.wait()


def test_a_program_is_ended_with_its_block(tmp_path: Path) -> None:
    with programs.running("it", ["sleep", "60"], "", tmp_path / "log") as program:
        assert program.process.poll() is None
    assert program.process.poll() is not None


def test_a_port_is_given_to_no_other_process() -> None:
    code = f"from benchmarks import programs; print(programs._reserve({programs.free_port()}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=programs.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_ab_s_rate_is_read_only_when_all_requests_succeeded() -> None:
    assert load.ab_rate(AB_REPORT, 100) == 1754.39
    for broken in (
        AB_REPORT.replace("Failed requests:        0", "Failed requests:        1"),
        AB_REPORT + "Non-2xx responses:      100\n",
        AB_REPORT.replace("Keep-Alive requests:    100", "Keep-Alive requests:    0"),
        AB_REPORT.replace("Complete requests:      100", "Complete requests:      99"),
    ):
        with pytest.raises(UnmeasurableError):
            load.ab_rate(broken, 100)


def test_cpu_time_and_memory_of_this_process() -> None:
    assert procfs.cpu_s(os.getpid()) > 0
    assert 1 < procfs.memory_mib(os.getpid(), "VmRSS") <= procfs.memory_mib(os.getpid(), "VmHWM")


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class names it so)
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, load.BenchmarkBlob]]:
    """The URL of a file, and the blob that it is."""
    content = bytes(range(256)) * 8192
    (tmp_path / "blob").write_bytes(content)
    server = HTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="served")
    thread.start()
    try:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        yield f"http://127.0.0.1:{server.server_port}/blob", load.BenchmarkBlob(digest, len(content))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("size_bytes", [1, 2 * bare_cache.BUFFERS * bare_cache.BUFFER_BYTES + 7])
def test_a_bare_cache_gives_what_the_origin_has(
    served: tuple[str, load.BenchmarkBlob], tmp_path: Path, size_bytes: int
) -> None:
    content = os.urandom(size_bytes)
    (tmp_path / "v2").mkdir()
    (tmp_path / "v2" / "blob").write_bytes(content)
    with programs.bare_cache(tmp_path / "bare", urlsplit(served[0]).netloc) as program:
        for _ in range(2):
            with urlopen(f"http://{program.address}/v2/blob") as response:
                assert response.read() == content


def test_the_clients_receive_and_check(served: tuple[str, load.BenchmarkBlob], tmp_path: Path) -> None:
    url, blob = served
    assert load.first_byte_s(url, blob) > 0
    assert load.runtime_s(url, blob, tmp_path / "output") > 0
    assert (tmp_path / "output").stat().st_size == blob.size_bytes


def test_wrong_bytes_are_no_result(served: tuple[str, load.BenchmarkBlob], tmp_path: Path) -> None:
    url, blob = served
    with pytest.raises(UnmeasurableError, match="digest"):
        load.runtime_s(url, load.BenchmarkBlob("sha256:0", blob.size_bytes), tmp_path / "output")
    with pytest.raises(UnmeasurableError, match="bytes"):
        load.first_byte_s(url, load.BenchmarkBlob(blob.digest, blob.size_bytes + 1))
    with pytest.raises(UnmeasurableError, match="status 404"):
        load.first_byte_s(f"{url}-not", blob)


@pytest.mark.parametrize(
    ("name", "rate", "expected"),
    [
        ("cold_vs_direct", None, report.Bar("<=", 1.1)),
        ("cold_vs_direct", 125e6, report.Bar("<=", 1.02)),
        ("cold_vs_direct", 625e6, report.Bar("<=", 1.1)),
        ("cold_vs_direct", 25e6, None),
        ("cold_vs_pull_through", None, report.Bar("<=", 0.9)),
        ("cold_vs_pull_through", 125e6, None),
        ("ready_s", 125e6, report.Bar("<=", 0.6)),
    ],
)
def test_the_bar_of_a_cold_pull_is_for_the_rate_of_the_origin(
    name: str, rate: float | None, expected: report.Bar | None
) -> None:
    assert datapath.bar(name, rate) == expected


@pytest.mark.real
def test_the_origin_s_link_is_limited_by_the_kernel(tmp_path: Path) -> None:
    """4 MiB at 80 Mbit/s take 0.42 s at least, whatever else the machine does."""
    shown = measure(tmp_path, "--origin-rate", "80mbit", "--only", "cold_vs_direct", "--only", "origin_goodput_share")
    figures = shown["figures"]
    assert 0.0 < figures["origin_goodput_share"]["value"] <= 1.1
    assert figures["cold_vs_direct"]["sides"]["direct_s"] >= 0.4
    assert shown["command"] == "datapath --size 4MiB --origin-rate 80mbit"


@pytest.mark.real
def test_a_network_is_entered_and_left() -> None:
    def where() -> str:
        return str(Path("/proc/thread-self/ns/net").readlink())

    before = where()
    with network() as net:
        host = net.host()
        with host.entered():
            assert where() == host.call(where) != before
        assert where() == before


@pytest.mark.real
@pytest.mark.parametrize(("rate", "burst"), [(12.5e6, 96 * 1024), (625e6, 625_000)])
def test_a_link_may_send_at_once_what_it_sends_in_a_millisecond(rate: float, burst: int) -> None:
    """A timer that comes late would else hold a fast link below its rate. A tick of the kernel's rounds the burst."""
    with network() as net, net.host(up=rate).entered():
        shown = subprocess.run(["tc", "-json", "qdisc", "show", "dev", "eth0"], capture_output=True, check=True)
    [shaping] = json.loads(shown.stdout)
    assert shaping["kind"] == "tbf"
    assert shaping["options"]["rate"] == rate
    assert shaping["options"]["burst"] == pytest.approx(burst, rel=0.02)


@pytest.mark.real
def test_without_the_right_to_make_networks_it_says_so(tmp_path: Path) -> None:
    bound = ("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")
    command = (sys.executable, "-m", "benchmarks", "datapath", "--size", "1MiB", "--origin-rate", "80mbit")
    words = [*bound, *command, "--workdir", str(tmp_path)]
    done = subprocess.run(words, cwd=programs.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "nothing was measured: no network namespace can be made" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real
def test_the_command_measures_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Against the real programs, with blobs too small for the figures to mean anything."""
    names = ["rss_mib.idle", "warm_vs_nginx", "cold_vs_direct", "bare_cold_vs_direct", "cold_vs_pull_through"]
    shown = measure(tmp_path, *(word for name in names for word in ("--only", name)))
    assert set(shown["figures"]) == set(names)
    idle = shown["figures"]["rss_mib.idle"]
    assert 10 < idle["sides"]["libraries_mib"] < idle["value"]
    bare = shown["figures"]["bare_cold_vs_direct"]["sides"]
    assert set(bare) == {"bare_s", "direct_s"}


def measure(workdir: Path, *words: str) -> Any:
    """The report of `datapath` on blobs of 4 MiB. Nothing is left of what it made."""
    common = ("--json", "--runs", "1", "--size", "4MiB", "--workdir", str(workdir))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "datapath", *common, *words],
        cwd=programs.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(workdir.iterdir()) == []
    return json.loads(done.stdout)
