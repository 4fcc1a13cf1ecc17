"""The replay of traces: what counts as warm, that budgets hold, and how traces are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import __main__
from benchmarks.predict.ibm import TraceError, read_ibm
from benchmarks.predict.replay import LEAD_S, Replay
from benchmarks.predict.synthetic import DAY_S, Mix, synthetic
from scheduler.core.history import PullRecord, PushRecord, Record

HOUR_S = 3600.0
SMALL = Mix(nightly=2, weekly=1, rollouts=2, builds=1, bursts_a_day=0.5, one_offs_a_day=3.0)


def replay(model: str, budget_bytes: int = 10**12, score_from_s: float = 0.0) -> Replay:
    return Replay(
        model,
        horizon_s=6 * HOUR_S,
        budget_bytes=budget_bytes,
        room_bytes=10**12,
        score_from_s=score_from_s,
        least=0.25,
    )


def pull(at: float, tag: str, site: str, digest: str) -> PullRecord:
    return PullRecord(at, f"a.test/app:{tag}", digest, site, 1, 100, 100, 0)


def rollout(after_s: float) -> list[Record]:
    """Site x pulls a tag that was pushed a while before; y never does, though it uses the repository."""
    return [
        pull(0.0, "0", "x", "d0"),
        pull(1.0, "0", "y", "d0"),
        PushRecord(10 * HOUR_S, "a.test/app:1", "d1"),
        pull(10 * HOUR_S + after_s, "1", "x", "d1"),
    ]


def test_what_was_preheated_in_time_is_warm_and_the_rest_is_wasted() -> None:
    score = replay("push").run(rollout(LEAD_S + 1))
    assert (score.pulls, score.cold, score.made_warm) == (3, 2, 1)
    assert (score.preheated_bytes, score.used_bytes, score.wasted_bytes) == (200, 100, 100)
    assert (score.warm_share, score.precision) == (1 / 3, 0.5)


def test_what_comes_too_late_is_cold_and_without_a_model_all_is() -> None:
    assert replay("push").run(rollout(LEAD_S - 1)).made_warm == 0
    nothing = replay("none").run(rollout(LEAD_S + 1))
    assert (nothing.cold, nothing.preheated_bytes) == (3, 0)


def test_the_days_for_learning_are_not_scored() -> None:
    score = replay("push", score_from_s=DAY_S).run(rollout(LEAD_S + 1))
    assert (score.pulls, score.cold, score.made_warm, score.preheated_bytes) == (0, 0, 0, 0)


@pytest.mark.parametrize("budget_bytes", [0, 700 << 20, 3 << 30])
def test_no_day_of_a_site_exceeds_the_budget(budget_bytes: int) -> None:
    played = replay("ewma+push", budget_bytes)
    score = played.run(synthetic(7, 6, SMALL))
    spent = [spent for site in played._sites.values() for spent in site.spent.values()]
    assert max(spent, default=0) <= budget_bytes
    assert bool(score.preheated_bytes) == bool(budget_bytes)


def test_a_trace_is_that_of_its_seed_and_in_the_order_of_time() -> None:
    first = synthetic(7, 6, SMALL)
    assert first == synthetic(7, 6, SMALL) != synthetic(8, 6, SMALL)
    assert [each.at for each in first] == sorted(each.at for each in first)
    assert replay("ewma+push").run(first) == replay("ewma+push").run(first)


def test_the_command_compares_models_over_the_same_traces(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "predict",
        "--days",
        "4",
        "--runs",
        "1",
        "--json",
        "--only",
        "cold_pulls.none",
        "--only",
        "warm_share.push",
    ]
    assert __main__.main(words) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert set(figures) == {"cold_pulls.none", "warm_share.push"}


# -- IBM's registry ----------------------------------------------------------------------------------------------------


def request(second: int, method: str, path: str, client: str = "c1", written: int = 0) -> dict[str, object]:
    """A record, in the form of the published traces."""
    return {
        "host": "d3e1",
        "http.request.duration": 0.3,
        "http.request.method": method,
        "http.request.remoteaddr": client,
        "http.request.uri": f"v2/5a2f/81c0/{path}",
        "http.request.useragent": "docker/17.03.1-ce",
        "http.response.status": 200,
        "http.response.written": written,
        "id": "2d3f",
        "timestamp": f"2017-06-20T02:41:{second:02d}.245Z",
    }


def test_a_trace_of_ibm_is_sorted_and_its_pulls_have_what_the_client_took(tmp_path: Path) -> None:
    (file := tmp_path / "trace.json").write_text(
        json.dumps(
            [
                request(12, "GET", "blobs/b2", written=30),
                request(10, "GET", "manifests/9e1c", written=5),
                request(11, "GET", "blobs/b1", written=70),
                request(11, "GET", "blobs/b1", client="c2", written=1000),
                request(9, "PUT", "manifests/9e1c"),
                request(8, "HEAD", "manifests/9e1c"),
                request(13, "GET", "tags/list"),
            ]
        )
    )
    push, pulled = read_ibm([file])
    assert isinstance(push, PushRecord)
    assert isinstance(pulled, PullRecord)
    assert (pulled.image, pulled.size_bytes, pulled.digest) == ("ibm.test/5a2f/81c0:9e1c", 100, push.digest)


@pytest.mark.parametrize("text", ["", "{}", "[]", '[{"a": 1}]', "[3]"])
def test_what_is_no_trace_is_said(tmp_path: Path, text: str) -> None:
    (file := tmp_path / "trace.json").write_text(text)
    with pytest.raises(TraceError):
        read_ibm([file])
