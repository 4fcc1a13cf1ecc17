"""The benchmark of a failover, without one: how it reads logs."""

from __future__ import annotations

from pathlib import Path

from benchmarks.failover.command import HAS_ONE, _logged_at


def test_the_times_of_an_event_are_read_from_a_daemons_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        'not JSON\n{"event": "other", "timestamp": "2026-01-01T00:00:00Z"}\n'
        f'{{"event": "{HAS_ONE}", "timestamp": "2026-01-01T00:00:01.250000Z"}}\n'
        f'{{"event": "{HAS_ONE}", "timestamp": "2026-01-01T00:00:02Z"}}\n'
    )
    first, second = _logged_at(log, HAS_ONE)
    assert second - first == 0.75
