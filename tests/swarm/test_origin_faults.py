"""The origin dies in mid-pull, or refuses one host; and a host that tells wrong digests of what it fetched."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from threading import Event

from aiohttp import web

from peer.oci.manifest import OCI_IMAGE
from scheduler.core.settings import SchedulerSettings
from tests.support.images import content_of, digest_of, make_image
from tests.support.node import asynchronous
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S, Answering, Seen
from tests.swarm.cluster import MIB, PATIENT, REPOSITORY, cluster, held_bytes, together, until_true
from tests.swarm.scripted import scripted

CONTENT = content_of("layer", 2 * MIB)
"""Eight pieces, which are two leases."""

DENIED = b'{"errors":[{"code":"DENIED","message":"not you"}]}'

EXPIRED = b'{"errors":[{"code":"UNAUTHORIZED","message":"the token has expired"}]}'

IMAGE = make_image(CONTENT, media_type=OCI_IMAGE)


@asynchronous
async def test_what_all_of_the_swarm_lacks_when_the_origin_dies_is_a_clear_error_for_everybody(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    digest = registry.put_blob(REPOSITORY, CONTENT)
    hold = registry.hold(REPOSITORY, digest, MIB + 1)
    async with cluster(tmp_path, registry) as swarm:
        hosts = await swarm.add_many(3)

        async def die() -> None:
            for host in hosts:
                await held_bytes(host, digest, MIB)
            await until_true(hold.reached.is_set)
            registry.rules[f"/v2/{REPOSITORY}/blobs/{digest}"] = Answering(503)
            registry.hang_up()
            await asyncio.to_thread(registry.stop)

        async with asyncio.TaskGroup() as group:
            group.create_task(die())
            replies = await together([host.blob(digest) for host in hosts])
        assert [reply.end for reply in replies] == ["fin"] * 3, "cut short, and so that a client sees it"
        assert all(CONTENT.startswith(reply.body) and len(reply.body) < len(CONTENT) for reply in replies)


@asynchronous
async def test_what_the_swarm_holds_is_had_by_everybody_when_the_origin_is_dead(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    registry.push(REPOSITORY, "latest", IMAGE)
    async with cluster(tmp_path, registry) as swarm:
        first, *others = await swarm.add_many(4)
        await together([host.manifest("latest") for host in (first, *others)])
        assert (await first.blob(digest_of(CONTENT))).body == CONTENT
        await asyncio.to_thread(registry.stop)
        replies = await together([host.blob(digest_of(CONTENT)) for host in others])
        assert [reply.body == CONTENT for reply in replies] == [True] * 3


@asynchronous
async def test_what_is_spread_over_the_swarm_when_the_origin_dies_is_had_by_everybody(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    """No host has it whole: each byte has left the origin, and what one lacks the others have."""
    digest = registry.put_blob(REPOSITORY, CONTENT)
    settings = replace(PATIENT, lease_pieces=1)
    async with cluster(tmp_path, registry, settings) as swarm, asyncio.TaskGroup() as group:
        hosts = await swarm.add_many(4, upload_rate=MIB)
        pulls = [group.create_task(host.blob(digest)) for host in hosts]
        await until_true(lambda: swarm.sent_bytes(digest) == len(CONTENT))
        await until_true(lambda: not swarm.scheduler.core.statistics().leases)
        held = [sum(blob["held_bytes"] for blob in await host.cached()) for host in hosts]
        await asyncio.to_thread(registry.stop)
        replies = await together(pulls)
        assert max(held) < len(CONTENT)
        assert [reply.body == CONTENT for reply in replies] == [True] * 4


@asynchronous
async def test_a_host_whose_credentials_are_refused_gets_that_answer_and_no_other_lease(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    content = CONTENT[:MIB]  # one lease
    digest = registry.put_blob(REPOSITORY, content)
    registry.members[REPOSITORY] = {"Bearer good", "Bearer bad"}
    refused: list[Seen] = []

    def only_questions(seen: Seen) -> Answering | None:
        if seen.method == "GET" and seen.headers.get("authorization") == "Bearer bad":
            refused.append(seen)
            return Answering(403, DENIED)
        return None

    registry.rules[f"/v2/{REPOSITORY}/blobs/{digest}"] = only_questions
    async with cluster(tmp_path, registry) as swarm:
        bad, good = await swarm.add_many(2)
        (reply,) = await together([bad.blob(digest, authorization="Bearer bad")])
        assert reply.status == 403
        asked = len(refused)
        replies = await together(
            [bad.blob(digest, authorization="Bearer bad"), good.blob(digest, authorization="Bearer good")]
        )
        assert replies[1].body == content
        assert len(content) <= swarm.sent_bytes(digest) < len(content) + 1000, "once, and some refusals"
        assert len(refused) <= asked + 1, "each time that its client asks the origin is asked, and no oftener"


def expires(registry: ImageRegistry, digest: str, token: str, expired: Event) -> list[Seen]:
    """From the second MiB on the origin refuses this token, once it has `expired`; returns what it refuses."""
    refused: list[Seen] = []

    def rule(seen: Seen) -> Answering | None:
        if seen.method == "GET" and seen.headers.get("authorization") == token and starts_at(seen) >= MIB:
            expired.wait(PATIENCE_S)
            refused.append(seen)
            return Answering(401, EXPIRED, {"WWW-Authenticate": registry.challenge(REPOSITORY)})
        return None

    registry.members[REPOSITORY] = {"Bearer old", "Bearer new", "Bearer other"}
    registry.rules[f"/v2/{REPOSITORY}/blobs/{digest}"] = rule
    return refused


def starts_at(seen: Seen) -> int:
    return int(seen.headers.get("range", "bytes=0-")[6:].split("-")[0])


@asynchronous
async def test_a_host_whose_token_expires_in_mid_pull_gets_the_rest_from_others(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    """The lease goes to a host whose token is good; the origin refuses those that are out."""
    digest = registry.put_blob(REPOSITORY, CONTENT)
    expired = Event()
    refused = expires(registry, digest, "Bearer old", expired)
    async with cluster(tmp_path, registry) as swarm, asyncio.TaskGroup() as group:
        old, other = await swarm.add_many(2)
        pulls = [group.create_task(old.blob(digest, authorization="Bearer old"))]
        await held_bytes(old, digest, MIB)
        pulls.append(group.create_task(other.blob(digest, authorization="Bearer other")))
        await held_bytes(other, digest, MIB)
        expired.set()
        replies = await together(pulls)
        assert [(reply.status, reply.body == CONTENT) for reply in replies] == [(200, True)] * 2
        assert len(refused) <= SchedulerSettings().leases_per_blob  # those that it had when its token expired


@asynchronous
async def test_a_host_whose_token_expires_and_that_is_alone_goes_on_with_its_get(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    """Nobody else can get the rest: one GET was for all of it, and was authorised when it began."""
    digest = registry.put_blob(REPOSITORY, CONTENT)
    expired = Event()
    refused = expires(registry, digest, "Bearer old", expired)
    async with cluster(tmp_path, registry) as swarm:
        host = await swarm.add()
        async with asyncio.TaskGroup() as group:
            pull = group.create_task(host.blob(digest, authorization="Bearer old"))
            await held_bytes(host, digest, MIB)
            expired.set()
        assert (pull.result().status, pull.result().body) == (200, CONTENT)
    assert not refused


@asynchronous
async def test_a_host_that_tells_wrong_digests_is_found_out_and_the_others_get_the_right_bytes(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    registry.push(REPOSITORY, "latest", IMAGE)
    digest = digest_of(CONTENT)
    async with cluster(tmp_path, registry) as swarm, scripted(swarm, "z-liar", CONTENT) as liar:
        await liar.publish(lie=True)

        async def serve(request: web.Request, start: int, stop: int) -> web.StreamResponse:
            return liar.answer(start, stop, liar.lie_of(start, stop))

        liar.serve = serve
        hosts = await swarm.add_many(3)
        await together([host.manifest("latest") for host in hosts])
        wrong = 0
        for _ in range(6):  # a client that was cut short asks again
            replies = await together([host.blob(digest) for host in hosts])
            wrong += sum(reply.end == "whole" and reply.status == 200 and reply.body != CONTENT for reply in replies)
            if all(reply.body == CONTENT for reply in replies):
                break
        assert [reply.body == CONTENT for reply in replies] == [True] * 3
        assert not wrong, "a client was given a complete wrong blob"
        assert liar.asked > 0
        assert not liar.sentenced, "the hosts of one address are one witness, and the liar is at the same"
