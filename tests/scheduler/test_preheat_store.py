"""What is kept of preheats: on one scheduler's disk and in the Redis of several it is the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from scheduler.core.preheat_job import JobState, Order, Target, TargetState
from scheduler.core.preheat_record import MAX_KEPT, JobRecord, PreheatStore, TooManyJobsError
from scheduler.core.preheats import MAX_JOBS
from scheduler.shared.redis_clients import RedisPlace
from scheduler.shared.redis_preheats import RedisPreheats
from scheduler.shell.sqlite_preheats import SqlitePreheats

NOW = 1_900_000_000.125
ORDER = Order("j1", ("alpine", "b/c:1"), ("linux/arm64",), 1000, 60.5, only_where_used=True, most_bytes=7)
JOB = JobRecord(ORDER, ("site=a", "30%"), NOW, NOW + 1, NOW + 3600.0, "harbor", "22:00-05:00")
KEY = b"k" * 32


def job(name: str, record: JobRecord = JOB) -> JobRecord:
    return replace(record, order=replace(record.order, id=name))


def open_redis(place: RedisPlace, key: bytes = KEY) -> RedisPreheats:
    return RedisPreheats(place, lambda: key)


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[PreheatStore]:
    opened: PreheatStore
    if request.param == "sqlite":
        opened = SqlitePreheats.open(None)
    else:
        opened = open_redis(request.getfixturevalue("redis_place"))
    yield opened
    opened.close()


def test_a_job_comes_back_as_it_went(store: PreheatStore) -> None:
    kept = store.add(JOB)
    assert kept == replace(JOB, number=1)
    assert store.job("j1") == store.job(1) == kept
    assert store.job("j2") is store.job(2) is None
    assert store.targets("j1") == []
    assert store.credential("j1") == store.credential("j2") == ""


def test_a_key_has_one_job(store: PreheatStore) -> None:
    first = store.add(JOB, "a key")
    assert store.add(job("j2"), "a key") == first
    assert store.add(job("j3"), "another").number == 2
    assert store.add(job("j4")).number == 3
    assert store.add(job("j5")).number == 4


def test_what_came_of_hosts(store: PreheatStore) -> None:
    store.add(JOB)
    done = Target("b", "s", TargetState.DONE, 2, "r", size_bytes=5, fetched_bytes=4, unpinned_bytes=3, confirmed=True)
    store.keep("j1", JobState.RUNNING, "", None, [done, Target("a", "s")])
    store.keep("j1", JobState.RUNNING, "", None, [Target("c", state=TargetState.FAILED, reason="gone")])
    assert store.targets("j1") == [Target("a", "s"), done, Target("c", state=TargetState.FAILED, reason="gone")]
    assert store.open_jobs() == [replace(JOB, number=1, state=JobState.RUNNING)]
    store.keep("j1", JobState.PARTLY, "why", NOW + 5, [Target("a", "s", TargetState.CANCELLED)])
    assert store.job("j1") == replace(JOB, number=1, state=JobState.PARTLY, reason="why", finished=NOW + 5)
    assert store.targets("j1")[0].state is TargetState.CANCELLED
    assert store.open_jobs() == []
    store.reopen("j1", NOW + 9000)
    assert store.open_jobs() == [replace(JOB, number=1, state=JobState.RUNNING, ends=NOW + 9000)]


def test_when_it_was_over_first_stays(store: PreheatStore) -> None:
    store.add(JOB)
    store.keep("j1", JobState.SUCCEEDED, "", NOW, [Target("a", state=TargetState.DONE)])
    store.keep("j1", JobState.SUCCEEDED, "", NOW + 9, [Target("b", state=TargetState.DONE)])
    assert store.job("j1") == replace(JOB, number=1, state=JobState.SUCCEEDED, finished=NOW)
    assert [each.host for each in store.targets("j1")] == ["a", "b"]


def test_the_images_by_digest_stay_until_others_are_known(store: PreheatStore) -> None:
    store.add(JOB)
    assert store.held_images("j1") == store.held_images("j2") == ()
    held = (f"alpine@sha256:{'a' * 64}",)
    store.keep("j1", JobState.RUNNING, "", None, [], held)
    store.keep("j1", JobState.RUNNING, "", None, [Target("a")])
    assert store.held_images("j1") == held


def test_the_newest_come_first_and_the_open_ones_oldest_first(store: PreheatStore) -> None:
    for number in range(1, 5):
        store.add(job(f"j{number}"))
    store.keep("j2", JobState.SUCCEEDED, "", NOW, [])
    assert [each.id for each in store.jobs(3)] == ["j4", "j3", "j2"]
    assert [each.id for each in store.open_jobs()] == ["j1", "j3", "j4"]


def test_a_credential_goes_with_its_job(store: PreheatStore) -> None:
    store.add(JOB, None, "s3cret")
    store.keep("j1", JobState.RUNNING, "", None, [Target("a")])
    assert store.credential("j1") == "s3cret"
    store.keep("j1", JobState.SUCCEEDED, "", NOW, [])
    store.reopen("j1", NOW)
    assert store.credential("j1") == ""


def test_old_jobs_go_and_open_ones_stay(store: PreheatStore) -> None:
    store.add(job("old"))
    store.keep("old", JobState.RUNNING, "", None, [Target("a")])
    for number in range(MAX_KEPT + 2):
        store.add(job(f"n{number}"), f"key {number}")
        store.keep(f"n{number}", JobState.SUCCEEDED, "", NOW, [Target("a", state=TargetState.DONE)])
    assert store.job("old") is not None
    assert store.job("n0") is None
    assert store.targets("n0") == []
    assert [target.host for target in store.targets("old")] == ["a"]
    assert store.add(job("again"), "key 0").id == "again", "a key goes with its job"


def test_credentials_in_redis_are_for_who_has_the_key(redis_place: RedisPlace) -> None:
    store, other = open_redis(redis_place), open_redis(redis_place, b"x" * 32)
    store.add(JOB, None, "s3cret")
    client = store._calls.client  # all that lies there
    raw = [client.hgetall(key) for key in client.scan_iter() if client.type(key) == b"hash"]
    assert "s3cret" not in repr(raw)
    assert other.credential("j1") == ""
    assert open_redis(redis_place).credential("j1") == "s3cret"


def test_many_schedulers_keep_the_bound(redis_place: RedisPlace) -> None:
    stores = [open_redis(redis_place) for _ in range(2)]
    for number in range(MAX_JOBS):
        stores[number % 2].add(job(f"n{number}"))
    for each in stores:
        with pytest.raises(TooManyJobsError):
            each.add(JOB)


def listed(place: RedisPlace, epoch: int, *names: str) -> None:
    """The live list, as `redis_live` writes it."""
    rows = ",".join(f'["{name}","http://{name}",1]' for name in names)
    open_redis(place)._calls.client.set(place.key("live"), f"[{epoch},[{rows}]]")


A, B = "a" * 16, "b" * 16


def begun(place: RedisPlace) -> RedisPreheats:
    listed(place, 7, A, B)
    store = open_redis(place)
    store.add(JOB)
    assert store.decide("j1", 7, JobState.PENDING, JobState.RUNNING, targets=[Target("h1"), Target("h2")])
    return store


def test_a_host_is_taken_by_one(redis_place: RedisPlace) -> None:
    store = begun(redis_place)
    assert [each.host for each in store.take("j1", f"{A}:1", ["h1", "h9"])] == ["h1"]
    assert [each.host for each in store.take("j1", f"{B}:1", ["h1", "h2"])] == ["h2"]
    store.report("j1", f"{B}:1", [Target("h1", state=TargetState.FAILED)])
    assert store.targets("j1")[0].state is TargetState.WAITING, "it is told by another"
    store.report("j1", f"{A}:1", [Target("h1", state=TargetState.DONE)])
    assert store.targets("j1")[0].state is TargetState.DONE
    assert store.look().open["j1"][1] == 1


def test_who_was_struck_out_takes_no_host_and_reports_none(redis_place: RedisPlace) -> None:
    store = begun(redis_place)
    store.take("j1", f"{A}:1", ["h1"])
    store.report("j1", f"{A}:1", [Target("h1", state=TargetState.TOLD, fetched_bytes=5)])
    listed(redis_place, 8, B)
    assert store.take("j1", f"{A}:1", ["h2"]) == []
    assert store.take("j1", f"{B}:2", ["h2"]) == [], "another process with the id"
    store.give_back("j1", {"h1": f"{A}:1"})
    taken = store.take("j1", f"{B}:1", ["h1", "h2"])
    assert [each.state for each in taken] == [TargetState.WAITING] * 2, "another has to tell it"
    store.give_back("j1", {"h1": f"{A}:1"})
    store.report("j1", f"{A}:1", [Target("h1", state=TargetState.DONE)])
    assert store.targets("j1")[0].state is TargetState.WAITING
    shares = store.shares("j1")
    assert shares is not None
    assert shares.told == {"h1": f"{B}:1", "h2": f"{B}:1"}


def test_a_runner_of_an_epoch_that_is_over_decides_nothing(redis_place: RedisPlace) -> None:
    store = begun(redis_place)
    listed(redis_place, 8, B)
    assert not store.decide("j1", 7, JobState.RUNNING, JobState.FAILED, "", NOW)
    assert not store.decide("j1", 8, JobState.PENDING, JobState.RUNNING, targets=[Target("h3")])
    assert store.decide("j1", 8, JobState.RUNNING, JobState.FAILED, "", NOW)


def test_what_is_over_takes_no_reports_and_results_are_final(redis_place: RedisPlace) -> None:
    store = begun(redis_place)
    store.take("j1", f"{A}:1", ["h1", "h2"])
    store.report("j1", f"{A}:1", [Target("h1", state=TargetState.DONE)])
    closed = [Target(host, state=TargetState.CANCELLED) for host in ("h1", "h2")]
    assert store.end("j1", JobState.CANCELLED, "", NOW, closed)
    assert not store.end("j1", JobState.FAILED, "", NOW, [])
    store.report("j1", f"{A}:1", [Target("h2", state=TargetState.DONE)])
    assert [each.state for each in store.targets("j1")] == [TargetState.DONE, TargetState.CANCELLED]
    assert store.retry("j1", NOW, NOW + 1, [Target("h2", attempt=2)])
    assert not store.retry("j1", NOW, NOW + 1, [])
    (again,) = store.take("j1", f"{B}:1", ["h1", "h2"])
    assert (again.host, again.attempt) == ("h2", 2)


def test_what_is_no_preheat_is_left_out(redis_place: RedisPlace) -> None:
    store = begun(redis_place)
    client, key = store._calls.client, redis_place.key("preheat:j1")
    spec: dict[str, object] = json.loads(client.hget(key, "spec"))
    wrong: list[dict[str, object]] = [{"images": [1]}, {"to": ["??"]}, {"rate_bytes_per_s": -1}, {"window": "x"}]
    wrong.append({"most_bytes": -1})
    broken: list[dict[str, object]] = [{}, *(spec | each for each in wrong)]
    for each in broken:
        client.hset(key, "spec", json.dumps(each))
        assert store.job("j1") is None
        assert store.shares("j1") is None
        assert store.jobs(9) == store.open_jobs() == []
    client.hset(key, mapping={"spec": json.dumps(spec), "held": "[1]"})
    client.hset(f"{key}:hosts", "h1", "[]")
    assert [each.host for each in store.targets("j1")] == ["h2"]
    shares = store.shares("j1")
    assert shares is not None
    assert shares.held_images == ()
