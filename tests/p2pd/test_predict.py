"""Predictions: what the history says, what models make of it, and what is preheated within which budget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from p2pd.config.sources import load
from p2pd.config.values import ConfigError
from p2pd.predict.facts import DAY_S, MAX_IMAGES, MAX_SITES, MAX_TIMES, Facts
from p2pd.predict.forecast import MODELS, Forecaster, Prediction, worth
from p2pd.predict.gathering import Gathering
from p2pd.predict.predictor import Guess
from p2pd.predict.service import COPIES, KEEP_S, SLACK, Answer, Jobs, Predictions, PredictStatistics, chosen_hosts
from p2pd.predict.telling import pulled_of
from proxy.core.pulls import PullSummary
from scheduler.core.events import PullSeen
from scheduler.core.history import MAX_TOTAL_BYTES, PullRecord, PushRecord, Record
from scheduler.core.preheat_job import JobState, Target, TargetState
from scheduler.core.preheat_record import JobRecord, JobView, TooManyJobsError
from scheduler.protocol.from_host import Pulled
from scheduler.shell.history_store import SqliteHistory

HOUR_S = 3600.0
NOW = 20_000 * DAY_S
APP = "a.test/app"
NIGHTLY = "a.test/nightly:1"


def pull(at: float, image: str = f"{APP}:1", site: str = "x", digest: str = "d1", size_bytes: int = 100) -> PullRecord:
    return PullRecord(at, image, digest, site, 1, size_bytes, size_bytes, 0)


def facts_of(*records: Record) -> Facts:
    facts = Facts()
    for each in records:
        facts.observe(each)
    return facts


def forecaster(model: str, *records: Record) -> Forecaster:
    found = Forecaster(MODELS[model](6 * HOUR_S), kept_s=7 * DAY_S)
    for each in records:
        found.observe(each)
    return found


def confidences(found: Forecaster, now: float) -> dict[tuple[str, str], float]:
    return {(each.image, each.site): each.confidence for each in found.predictions(now)}


class TestFacts:
    def test_a_tag_moves_when_it_is_pushed_or_shows_another_digest(self) -> None:
        facts = facts_of(pull(0, digest="d1"), pull(1, digest="d2"))
        image = facts.images[f"{APP}:1"]
        assert (image.digest, image.before, image.moved_at) == ("d2", "d1", 1)
        facts.observe(pull(2, digest="d1", site="y"))  # a host that is behind
        assert (image.digest, image.moved_at) == ("d2", 1)
        facts.observe(PushRecord(3, f"{APP}:1"))
        assert (image.digest, image.before, image.moved_at, image.pushed) == ("", "d2", 3, True)
        facts.observe(pull(4, digest="d3"))
        assert (image.digest, image.moved_at) == ("d3", 3)

    def test_a_site_holds_what_it_pulled_or_was_given_until_the_tag_moves(self) -> None:
        facts = facts_of(pull(0), PushRecord(10, f"{APP}:1"))
        image = facts.images[f"{APP}:1"]
        assert not facts.holds(image, "x", 11, DAY_S)
        facts.preheated(image.name, "x", 12)
        assert facts.holds(image, "x", 13, DAY_S)
        facts.observe(pull(14, digest="d2", site="y"))
        assert facts.holds(image, "x", 15, DAY_S), "what was given is what the tag has named since the push"
        assert not facts.holds(image, "x", 12 + DAY_S + 1, DAY_S)

    def test_it_is_bounded(self) -> None:
        often = facts_of(*(pull(number) for number in range(MAX_TIMES + 5)))
        assert often.images[f"{APP}:1"].sites["x"].times == [float(number) for number in range(5, MAX_TIMES + 5)]
        facts = facts_of(*(pull(number, f"{APP}:{number}", str(number)) for number in range(MAX_IMAGES + 10)))
        assert len(facts.images) == MAX_IMAGES
        assert len(facts.repositories[APP].sites) <= MAX_SITES


class TestModels:
    def test_what_is_pulled_each_day_at_this_hour_is_expected_at_this_hour(self) -> None:
        found = forecaster("ewma", *(pull(day * DAY_S + 8 * HOUR_S, NIGHTLY) for day in range(10)))
        before, after = found.predictions(10 * DAY_S + 5 * HOUR_S), found.predictions(10 * DAY_S + 12 * HOUR_S)
        assert before[0].confidence > 0.8
        assert before[0].in_s == pytest.approx(3 * HOUR_S)
        assert "on 9 of 9 days" in before[0].reason
        assert after == []

    def test_what_is_pulled_on_weekdays_is_not_expected_on_sunday(self) -> None:
        at_work = [pull(day * DAY_S + 8 * HOUR_S, NIGHTLY) for day in range(35) if day % 7 < 5]
        found = forecaster("ewma", *at_work)
        on = {day: confidences(found, day * DAY_S + 6 * HOUR_S).get((NIGHTLY, "x"), 0.0) for day in (34, 35)}
        assert on[34] < 0.35 < 0.6 < on[35], "day 34 is a Sunday"

    def test_what_is_pushed_is_expected_where_its_repository_is_used_as_often_as_before(self) -> None:
        records: list[Record] = [pull(0, site="x"), pull(1, site="y")]
        for number in range(2, 12):
            records.append(PushRecord(number * DAY_S, f"{APP}:{number}"))
            records.append(pull(number * DAY_S + HOUR_S, f"{APP}:{number}", "x", f"d{number}"))
        records.append(PushRecord(12 * DAY_S, f"{APP}:12"))
        found = confidences(forecaster("push", *records), 12 * DAY_S + 60)
        assert found[f"{APP}:12", "x"] > 0.85
        assert found[f"{APP}:12", "y"] < 0.15

    @pytest.mark.parametrize("model", MODELS)
    def test_each_model_gives_probabilities_and_the_same_ones_again(self, model: str) -> None:
        records = [pull(hour * HOUR_S, f"{APP}:{hour % 7}", "xy"[hour % 2], f"d{hour // 24}") for hour in range(150)]

        def played() -> list[Prediction]:
            found = forecaster(model)
            for each in records:
                found.observe(each)
                found.predictions(each.at)
            return found.predictions(150 * HOUR_S)

        first = played()
        assert first == played()
        assert all(0.0 <= each.confidence <= 1.0 for each in first)

    def test_the_model_that_learns_hears_what_the_simple_ones_do_not(self) -> None:
        """Tags of pull requests are never pulled, and versions always, an hour after their push: the repository's rule
        is one in two for both."""
        found = forecaster("river", pull(0))
        for number in range(1, 200):
            tag = f"{APP}:pr-{number}" if number % 2 else f"{APP}:v{number}"
            found.observe(PushRecord(number * 8 * HOUR_S, tag))
            found.predictions(number * 8 * HOUR_S)
            if not number % 2:
                found.observe(pull((number * 8 + 1) * HOUR_S, tag, digest=f"d{number}"))
            for hour in range(2, 8):
                found.predictions((number * 8 + hour) * HOUR_S)
        at = 200 * 8 * HOUR_S
        found.observe(PushRecord(at, f"{APP}:pr-1000"))
        found.observe(PushRecord(at, f"{APP}:v1000"))
        said = confidences(found, at)
        assert said.get((f"{APP}:pr-1000", "x"), 0.0) < 0.3 < 0.6 < said[f"{APP}:v1000", "x"]


sizes = st.integers(0, 300)


@given(st.lists(st.tuples(st.sampled_from("xy"), sizes, st.floats(0, 1), st.booleans())), sizes)
def test_what_is_worth_it_is_within_the_budget_of_each_site(
    found: list[tuple[str, int, float, bool]], budget: int
) -> None:
    predictions = [
        Prediction(f"a.test/{number}:1", site, confidence, size_bytes, held, "")
        for number, (site, size_bytes, confidence, held) in enumerate(found)
    ]
    chosen = worth(predictions, lambda _: budget, least=0.5)
    for site in "xy":
        assert sum(each.size_bytes for each in chosen if each.site == site) <= budget
    assert all(each.confidence >= 0.5 and not each.held and each.size_bytes for each in chosen)


class TestGathering:
    def test_a_host_counts_once_and_nonsense_does_not(self) -> None:
        gathering = Gathering()
        told = Pulled("a.test", "app", "1", b"a" * 32, 100, 150)
        for host in ("h1", "h1", "h2"):
            gathering.seen(PullSeen(host, "x", told), NOW)
        gathering.seen(PullSeen("h1", "x", structs.replace(told, repository="../..")), NOW)
        (record,) = gathering.take()
        digest = f"sha256:{(b'a' * 32).hex()}"
        assert record == PullRecord(NOW, f"{APP}:1", digest, "x", 2, 100, 300, 300)
        assert (gathering.take(), gathering.dropped) == ([], 1)

    def test_no_host_says_a_number_that_cannot_be_kept(self) -> None:
        gathering, store = Gathering(), SqliteHistory.open(None, DAY_S)
        told = Pulled("a.test", "app", "1", b"a" * 32, 2**63 - 1, 2**63 - 1)
        for _ in range(3):
            for host in ("h1", "h2"):
                gathering.seen(PullSeen(host, "x", told), NOW)
            store.add(gathering.take(), NOW)
        store.add([replace(pull(NOW), total_bytes=MAX_TOTAL_BYTES, warm_bytes=MAX_TOTAL_BYTES)] * 6, NOW)
        assert max(each.total_bytes for each in store.records() if isinstance(each, PullRecord)) == MAX_TOTAL_BYTES
        store.close()

    def test_it_takes_a_bounded_number_of_images(self) -> None:
        gathering = Gathering(most=3)
        for number in range(10):
            gathering.seen(PullSeen("h", "x", Pulled("a.test", "app", f"t{number}", b"a" * 32, 1, 0)), NOW)
        assert (len(gathering.take()), gathering.dropped) == (3, 7)


def test_what_is_not_exchanged_and_what_has_no_tag_is_not_told() -> None:
    digest = f"sha256:{'a' * 64}"
    summary = PullSummary(f"{APP}@{digest}", "", 1.0, 2, 0, 5, 3, 2, f"{APP}:1", digest)
    assert pulled_of(summary, lambda *_: True) == Pulled("a.test", "app", "1", bytes.fromhex("a" * 64), 10, 5)
    assert pulled_of(summary, lambda *_: False) is None
    assert pulled_of(structs.replace(summary, tag=""), lambda *_: True) is None
    assert pulled_of(structs.replace(summary, store_bytes=0, peer_bytes=0, origin_bytes=0), lambda *_: True) is None
    assert pulled_of(structs.replace(summary, digest="sha512:" + "a" * 128), lambda *_: True) is None


def test_predicting_without_a_history_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="needs a history of pulls: set pull_history"):
        load({"predict": "act"}, {}, default_file=Path("/nowhere"))


# -- acting ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class At:
    """A host."""

    id: str
    site: str


class FakeJobs:
    """What `scheduler.shell.preheating` is for predictions."""

    def __init__(self) -> None:
        self.views: dict[str | int, JobView] = {}
        self.is_full = False

    async def add(self, record: JobRecord) -> JobView:
        if self.is_full:
            raise TooManyJobsError("full")
        view = self.views[record.id] = JobView(record, tuple(Target(host, "x") for host in record.to))
        return view

    async def job(self, name: str | int) -> JobView | None:
        return self.views.get(name)

    def end(self, fetched_bytes: int, state: TargetState = TargetState.DONE) -> None:
        for name, view in self.views.items():
            targets = tuple(replace(each, state=state, fetched_bytes=fetched_bytes) for each in view.targets)
            self.views[name] = JobView(replace(view.record, state=JobState.SUCCEEDED), targets)

    @property
    def records(self) -> list[JobRecord]:
        return [view.record for view in self.views.values()]


class Sure:
    """Everything will be pulled."""

    def observe(self, record: Record, facts: Facts) -> None:
        """Learns nothing."""

    def guess(self, *_: object) -> Guess:
        return Guess(0.9, "")


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


class Bed:
    """Predictions over a fake scheduler, whose hosts are h0 to h4 of site x and z0 of site z."""

    def __init__(self, store: SqliteHistory, jobs: FakeJobs, budget_bytes: int, mode: str = "act") -> None:
        self.jobs, self.clock = jobs, Clock()
        hosts = [*(At(f"h{number}", "x") for number in range(5)), At("z0", "z")]
        predictor = Forecaster(Sure(), kept_s=7 * DAY_S)
        given: Jobs = jobs

        async def connected() -> list[At]:
            return hosts

        self.service = Predictions(
            store,
            predictor,
            given,
            connected,
            budget_bytes=budget_bytes,
            mode=mode,  # type: ignore[arg-type] # one of them
            clock=self.clock,
        )

    async def look(self, after_s: float = 3600.0) -> Answer:
        self.clock.now += after_s
        await self.service.look()
        return await self.service.answer()


def acting(budget_bytes: int, test: Callable[[Bed], object], *, mode: str = "act", images: int = 3) -> None:
    """Each image has 100 bytes, was pulled at site x, and has moved since."""

    async def main() -> None:
        store = SqliteHistory.open(None, 90 * DAY_S)
        old = [pull(NOW - DAY_S, f"a.test/app{number}:1") for number in range(images)]
        store.add([*old, *(PushRecord(NOW - 60, each.image) for each in old)], NOW)
        bed = Bed(store, FakeJobs(), budget_bytes, mode)
        await bed.service._learn_all()
        result = test(bed)
        if asyncio.iscoroutine(result):
            await result
        bed.service.close()

    asyncio.run(main())


PART = int(100 * SLACK)
"""What one host may fetch of an image."""


def test_it_preheats_within_the_budget_for_the_same_hosts_and_a_short_time() -> None:
    async def test(bed: Bed) -> None:
        answer = await bed.look()
        first, second = bed.jobs.records
        assert answer.spent == {"x": 2 * COPIES * PART}
        assert bed.service.statistics() == PredictStatistics(6, 2, 2 * COPIES * PART)
        assert (first.source, first.order.ttl_s, first.order.most_bytes) == ("predict", KEEP_S, PART)
        assert list(first.to) == chosen_hosts([f"h{number}" for number in range(5)], first.order.images[0][:-2])
        assert second.order.images != first.order.images
        await bed.look()
        assert len(bed.jobs.records) == 2, "the budget is used up, and what was given is held"

    acting(2 * COPIES * PART + PART, test)


def test_what_was_not_fetched_is_given_back_and_the_next_day_is_another() -> None:
    async def test(bed: Bed) -> None:
        await bed.look()
        bed.jobs.end(fetched_bytes=10)
        assert (await bed.look()).spent == {"x": COPIES * 10 + COPIES * PART}
        assert len(bed.jobs.records) == 2, "there is room for one more now"
        assert (await bed.look(after_s=DAY_S)).spent == {"x": COPIES * PART}

    acting(COPIES * PART + COPIES * 10, test)


def test_a_host_that_says_it_fetched_more_than_it_may_counts_in_full() -> None:
    async def test(bed: Bed) -> None:
        await bed.look()
        bed.jobs.end(fetched_bytes=2**63 - 1)
        assert (await bed.look()).spent == {"x": COPIES * PART}

    acting(COPIES * PART, test)


def test_a_host_that_did_not_say_what_it_fetched_counts_in_full() -> None:
    async def test(bed: Bed) -> None:
        await bed.look()
        bed.jobs.end(fetched_bytes=10, state=TargetState.CANCELLED)
        assert (await bed.look()).spent == {"x": COPIES * PART}

    acting(COPIES * PART, test)


def test_it_advises_without_acting_and_a_scheduler_that_is_full_takes_no_budget() -> None:
    async def advises(bed: Bed) -> None:
        answer = await bed.look()
        assert (len(answer.predictions), answer.spent, bed.jobs.records) == (3, {}, [])

    async def full(bed: Bed) -> None:
        bed.jobs.is_full = True
        assert (await bed.look()).spent == {"x": 0}

    acting(10**6, advises, mode="advise")
    acting(10**6, full)


def test_a_push_is_acted_on_at_once_in_its_own_repository() -> None:
    async def test(bed: Bed) -> None:
        await bed.look()
        assert len(bed.jobs.records) == 3
        bed.service.pushed("a.test/app1:2")
        await bed.look(after_s=1.0)
        assert [each.order.images[0] for each in bed.jobs.records[3:]] == ["a.test/app1:2"]

    acting(10**6, test)


def test_what_is_told_while_the_history_is_read_is_learned_after_it() -> None:
    async def main() -> None:
        bed = Bed(SqliteHistory.open(None, DAY_S), FakeJobs(), 0, "advise")
        bed.service.pushed(f"{APP}:2")
        await bed.service.look()  # before the history was read
        async with asyncio.TaskGroup() as group:
            group.create_task(bed.service._learn_all())
            bed.service.pushed(f"{APP}:3")
            await bed.service.look()
        assert (await bed.service.answer()).records == 2
        bed.service.close()

    asyncio.run(main())


def test_what_was_told_is_kept(tmp_path: Path) -> None:
    async def main() -> None:
        bed = Bed(SqliteHistory.open(tmp_path, DAY_S), FakeJobs(), 0, "off")
        await bed.service._learn_all()
        bed.service.seen(PullSeen("h0", "x", Pulled("a.test", "app", "1", b"a" * 32, 100, 0)))
        await bed.service.look()
        bed.service.close()

    asyncio.run(main())
    (record,) = SqliteHistory.open(tmp_path, DAY_S).records()
    assert isinstance(record, PullRecord)
    assert (record.image, record.site, record.hosts) == (f"{APP}:1", "x", 1)
