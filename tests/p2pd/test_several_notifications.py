"""A registry that notifies each of several schedulers of a push: with one real Redis it is preheated once."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from p2pd.config.preheat_rules import parse_preheat_rules
from p2pd.preheat.notifications import PATH, Notifications
from p2pd.preheat.rules import PreheatRules
from p2pd.preheat.token import PreheatToken
from peer.tasks import BackgroundTasks
from scheduler.shared.redis_clients import RedisPlace
from tests.scheduler.test_shared_preheating import Member, Several, run
from tests.support.node import until

EVENTS = {
    "events": [
        {
            "action": "push",
            "timestamp": "2026-11-29T23:55:47Z",
            "target": {"repository": "team/app", "tag": tag, "digest": "sha256:0", "url": "https://reg.test/v2/"},
        }
        for tag in ("v1", "main")
    ]
}


def test_a_push_that_all_are_told_of_is_preheated_once(tmp_path: Path, redis_place: RedisPlace) -> None:
    """Where its repository is in use, and once for the rule that it matches."""

    async def test(_: Several, runner: Member, other: Member) -> None:
        rules = parse_preheat_rules(["reg.test/team/*:v*"])
        async with BackgroundTasks() as tasks:
            all_of_them = [
                Notifications(
                    (service := lambda member=member: member.service),
                    PreheatToken(tmp_path),
                    lambda: tasks,
                    PreheatRules(rules, service),
                    debounce_s=0.01,
                )
                for member in (runner, other, runner)
            ]
            for each in all_of_them:
                app = web.Application()
                app.add_routes(each.routes())
                async with TestClient(TestServer(app)) as client, client.post(PATH, json=EVENTS) as answer:
                    assert answer.status == 200
            await until(lambda: not tasks._tasks)
            found = [(each.source, each.order.images[0]) for each in await other.service.jobs(100)]
            assert sorted(found) == [
                ("push", "reg.test/team/app:main"),
                ("push", "reg.test/team/app:v1"),
                ("rule", "reg.test/team/app:v1"),
            ]

    run(redis_place, test)
