"""Preheats: hosts are told which images to have, and report. `scheduler.core.preheat_job` has the states.

Rules:
1. The shell keeps jobs and results, and gives the core all jobs that are not over when it starts. Whatever was not kept
   is told and reported again: neither the scheduler nor a host loses a job when it is killed.
2. The hosts are chosen when the job begins; after a start of the scheduler, not before `settle_s`, so that the first to
   connect are not all. A host that is away is told when it comes, until the job ends. A job whose selection grows (all
   hosts, or all with these labels) and that pins has each host that connects later, too.
3. A host that says that it holds blobs must have announced them. If it has not within `CONFIRM_S`, it has failed.
   Without certificates a host may hold what it must not announce, and is taken at its word: `Target.confirmed` says so.
   It is also taken at its word for blobs that it has announced to other schedulers.
4. A credential goes to FETCHERS hosts of each site, which fetch from the registry. The others are told once one of
   those holds everything, by digest and without the credential, and have it from other hosts. A host that lies about
   the digests has others fetch what no client asks for. Where hosts have no certificates, private content is not
   exchanged: each host fetches, and each is given the credential.
5. A report counts if the host was told, for this attempt. Each other one is dropped.
6. Of several schedulers, each has the hosts of a job that are its part. The shell gives and takes them, and says when
   the job is over; a part without open hosts waits for more. Rule 4 holds for each scheduler's hosts of a site.
7. The cost of what a host does grows with that host's own jobs, of which there are at most `MAX_JOBS`, and those that
   stand.
8. A job that grows, and of which some host has everything, stands when it is over. Until its pins end, hosts that
   connect and have not got it are told, NEWCOMERS_AT_ONCE at a time, within its hours. They keep it until then, too.
   The credential is forgotten by then: they are told by digest as others than fetchers are (rule 4), or else fetch as
   themselves. What comes of them changes nothing of how the job has ended. Of jobs that order the same, the last to
   end stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from scheduler.core.events import PreheatAdded, PreheatCancelled, PreheatChanged, PreheatHosts
from scheduler.core.members import Host, MemberState
from scheduler.core.preheat_hosts import MAX_HOSTS, Candidate
from scheduler.core.preheat_job import AT_IT, STANDING_STATES, Job, JobState, Target, TargetCause, TargetState
from scheduler.core.preheat_window import DAY_S
from scheduler.core.state import Due, PreheatKey, SchedulerState, Timer
from scheduler.protocol.fields import DIGEST_BYTES
from scheduler.protocol.from_host import PreheatReport, PreheatState
from scheduler.protocol.to_host import Preheat, PreheatEnded

FETCHERS: Final = 2

MAX_JOBS: Final = 256
"""Jobs that are not over."""

MAX_STANDING: Final = 64
MAX_STANDING_HOSTS: Final = 200_000
"""All hosts of the jobs that stand, some 250 bytes each. The oldest are given up."""

NEWCOMERS_AT_ONCE: Final = 64
"""Hosts of one job that stands, and one scheduler. As many joins, and questions to the registry, are no surge."""

MAX_ATTEMPTS: Final = 8
"""A host that fails and connects anew is told so often by itself."""

CONFIRM_EVERY_S: Final = 2.0
CONFIRM_TIMES: Final = 6
"""A host announces a blob as soon as it is whole, on the connection that its report comes on."""

AWAY: Final = "it was away until the preheat ended"
LATE: Final = "it was not done when the preheat ended"
LATE_JOB: Final = "its time was over"
CANCELLED: Final = "it was cancelled"
NOBODY: Final = "no host that is connected is selected"


class Preheats:
    """All jobs that are not over, and those that stand."""

    def __init__(self, state: SchedulerState) -> None:
        self._state: Final = state
        self.jobs: Final[dict[str, Job]] = {}
        self.ended: Final[Counter[JobState]] = Counter()
        """How many jobs have ended so since the start."""
        self._of_host: Final[dict[str, dict[str, Job]]] = {}
        """The jobs in which a host is open, by host and id."""

    def __len__(self) -> int:
        return sum(job.is_open for job in self.jobs.values())

    def told(self, event: PreheatAdded | PreheatHosts | PreheatCancelled) -> None:
        """The shell tells of a job."""
        match event:
            case PreheatAdded():
                self._add(event)
            case PreheatHosts():
                self._change_part(event)
            case PreheatCancelled():
                self._cancel(event)

    def _add(self, event: PreheatAdded) -> None:
        """Begin a job, or go on with one that was begun, or stood, before a restart, or that is tried again."""
        job, now = event.job, self._state.now
        known = self.jobs.get(job.order.id)
        if known is not None:
            if known.result is None or job.result is not None:
                return
            self._close(known, TargetCause.FAIL)  # without a word: the job has these hosts
            self._remove(known)
        self.jobs[job.order.id] = job
        for target in job.targets.values():
            if target.is_open:
                target.state = TargetState.WAITING  # what was said before a restart is said again
                self._open(job, target)
        if job.result is not None:
            self._make_room(job)
        if job.state is JobState.PENDING:
            settled_at = (self._state.started_at or now) + self._state.settings.settle_s
            self._set_timer(job, max(job.begins_at, settled_at))
            return
        self._set_timer(job, job.pauses_at)
        if not (job.still_open or job.is_part):  # the scheduler was killed before it kept the end
            self._end(job, job.outcome(), ())
            return
        self._tell_present(job)

    def _cancel(self, event: PreheatCancelled) -> None:
        """End a job now."""
        job = self.jobs.get(event.job)
        if job is None:
            return
        job.reason = CANCELLED
        self._end(job, JobState.CANCELLED, self._close(job, TargetCause.CANCEL))

    def _change_part(self, event: PreheatHosts) -> None:
        """Take hosts of a job, and let others go without a word: another scheduler tells them."""
        job = self.jobs.get(event.job)
        if job is None or not job.is_part:
            return
        for host in event.left:
            target = job.targets.get(host)
            if target is not None and target.is_open:
                self._forget(job, target)
            job.targets.pop(host, None)
        for target in event.taken:
            known = job.targets.get(target.host)
            if known is None or not known.is_open:
                job.targets[target.host] = target
                self._open(job, target)
        job.held_images = job.held_images or event.held_images
        self._tell_present(job)

    def arrived(self, host: Host) -> None:
        """A host has connected: it is told what is open for it, and is a host more of the jobs that grow."""
        for job in [each for each in self._of_host.get(host.id, {}).values() if each.state is JobState.RUNNING]:
            self._tell(job, [job.targets[host.id]])
        candidate = Candidate(host.id, *host.topology)
        for job in [each for each in self.jobs.values() if each.grows and each.targets and not each.is_part]:
            self._add_host(job, candidate)

    def _add_host(self, job: Job, candidate: Candidate) -> None:
        """A host has connected after the hosts of a job were chosen."""
        target = job.targets.get(candidate.host)
        if target is None:
            if not job.selection.admits(candidate) or len(job.targets) >= MAX_HOSTS:
                return
            target = job.targets[candidate.host] = Target(candidate.host, candidate.site)
        elif job.result is not None and target.may_try_again and target.attempt < MAX_ATTEMPTS:
            target.try_again()
        else:
            return
        self._open(job, target)
        self._changed(job, (target,))
        if job.state is JobState.RUNNING:
            self._tell(job, [target])

    def departed(self, host: Host) -> None:
        """A host is away. It will be told again."""
        for job in list(self._of_host.get(host.id, {}).values()):
            target = job.targets[host.id]
            if target.state is not TargetState.WAITING:
                job.step(target, TargetCause.LOST)
                self._state.deadlines.cancel(Timer(Due.PREHEAT, PreheatKey(job.order.id, host.id)))
                if job.is_bounded and job.state is JobState.RUNNING:
                    self._tell_present(job, besides=host.id)  # another host in its place

    def reported(self, host: Host, report: PreheatReport) -> None:
        """Handle what a host says of its part of a job."""
        job = self._of_host.get(host.id, {}).get(report.job)
        target = None if job is None else job.targets[host.id]
        if job is None or target is None or target.state is not TargetState.TOLD or report.attempt != target.attempt:
            return
        target.fetched_bytes, target.size_bytes = report.fetched_bytes, report.size_bytes
        if report.state is PreheatState.RUNNING:
            target.reason = report.reason
            return
        target.digests, target.unpinned_bytes = report.digests, report.unpinned_bytes
        target.roots = report.roots
        if report.state is PreheatState.SKIPPED:
            self._finish(job, target, TargetCause.SKIP, report.reason)
            return
        if report.state is PreheatState.FAILED:
            self._finish(job, target, TargetCause.FAIL, report.reason or "it did not say why")
            return
        job.step(target, TargetCause.SAYS_DONE, report.reason)
        target.asked = 0
        trusted = (report.private and host.came_from != "") or (report.elsewhere and not report.digests)
        self._confirm(job, host, target, trusted=trusted)

    def due(self, key: PreheatKey) -> None:
        """Choose the hosts of a job, end it, or look again whether a host has announced what it says it holds."""
        job = self.jobs[key.job]
        if key.host:
            target = job.targets[key.host]
            self._confirm(job, self._state.hosts_by_id[key.host], target, trusted=False)
        elif self._state.now >= job.ends_at and job.result is not None:
            self._drop(job)
        elif self._state.now >= job.ends_at:
            job.reason = LATE_JOB
            changed = self._close(job, TargetCause.FAIL)
            self._end(job, job.outcome(), changed)
        elif job.state is JobState.PENDING:
            self._begin(job)
        else:
            self._pause(job)

    def validate(self) -> None:
        """Raise AssertionError if a job waits for nothing."""
        standing = [job for job in self.jobs.values() if job.result is not None]
        assert len(self) <= MAX_JOBS
        assert len(standing) <= MAX_STANDING
        open_in: dict[str, set[str]] = {}
        for name, job in self.jobs.items():
            assert job.state in (JobState.PENDING, JobState.RUNNING), "a job that is over is kept"
            assert job.result is None or (job.pinned_until and not job.credential)
            assert Timer(Due.PREHEAT, PreheatKey(name, "")) in self._state.deadlines
            for target in job.targets.values():
                if target.is_open:
                    open_in.setdefault(target.host, set()).add(name)
                is_here = target.host in self._state.hosts_by_id
                assert target.state not in (TargetState.TOLD, TargetState.CONFIRMING) or is_here
                waits = Timer(Due.PREHEAT, PreheatKey(name, target.host)) in self._state.deadlines
                assert waits == (target.state is TargetState.CONFIRMING)
            assert job.still_open == {host: target for host, target in job.targets.items() if target.is_open}
            assert job.at_it == sum(target.state in AT_IT for target in job.targets.values())
            assert not job.pinned_until or job.at_it <= NEWCOMERS_AT_ONCE
            assert job.still_open or job.is_part or job.result is not None or job.state is JobState.PENDING
        assert open_in == {host: set(jobs) for host, jobs in self._of_host.items()}

    # -- hosts -----------------------------------------------------------------------------------------------------

    def _begin(self, job: Job) -> None:
        chosen = not job.targets
        if chosen:
            self._choose(job)
        if not job.targets:
            job.reason = NOBODY
            self._end(job, JobState.FAILED, ())
            return
        job.state = JobState.RUNNING
        self._set_timer(job, job.pauses_at)
        self._changed(job, job.targets.values() if chosen else ())
        self._tell_present(job)

    def _pause(self, job: Job) -> None:
        """Its hours are over: hosts stop, and are told again when the next ones begin."""
        told = [target for target in job.still_open.values() if target.state in AT_IT]
        hosts = [self._state.hosts_by_id[target.host] for target in told if target.state is TargetState.TOLD]
        for target in told:
            job.step(target, TargetCause.LOST)
            self._state.deadlines.cancel(Timer(Due.PREHEAT, PreheatKey(job.order.id, target.host)))
        self._state.send(hosts, PreheatEnded(job.order.id))
        job.state = JobState.PENDING
        while job.begins_at <= self._state.now:
            job.begins_at += DAY_S
        self._set_timer(job, job.begins_at)
        self._changed(job, ())

    def _choose(self, job: Job) -> None:
        candidates = [Candidate(each.id, *each.topology) for each in self._state.hosts.values()]
        for chosen in job.selection.choose(candidates, job.order.id):
            job.targets[chosen.host] = target = Target(chosen.host, chosen.site)
            self._open(job, target)

    def _tell_present(self, job: Job, besides: str = "") -> None:
        present = (target for target in job.still_open.values() if target.host in self._state.hosts_by_id)
        self._tell(job, (target for target in present if target.host != besides))

    def _tell(self, job: Job, targets: Iterable[Target]) -> None:
        """Tell those of these hosts that wait and are connected."""
        by_attempt: dict[int, list[Host]] = {}
        old = []
        fetching = self._fetching(job)
        for target in targets:
            if job.pinned_until and job.at_it >= NEWCOMERS_AT_ONCE:
                break
            host = self._state.hosts_by_id[target.host]
            if target.state is not TargetState.WAITING:
                continue
            if not (host.preheats_within if job.order.most_bytes else host.preheats):
                old.append(target)
                continue
            if fetching is not None and not host.came_from:
                if fetching[target.site] >= FETCHERS:
                    continue
                fetching[target.site] += 1
            job.step(target, TargetCause.TELL)
            by_attempt.setdefault(target.attempt, []).append(host)
        order = job.order
        for attempt, hosts in by_attempt.items():
            message = Preheat(
                order.id,
                attempt,
                job.held_images or order.images,
                order.platforms,
                order.rate_bytes_per_s,
                job.keep_s(self._state.now),
                "" if job.held_images else job.credential,
                order.only_where_used,
                bool(job.held_images),
                order.most_bytes,
            )
            self._state.send(hosts, message)
        for target in old:
            self._finish(job, target, TargetCause.TOO_OLD, "its version of p2pd knows no preheats: it was not asked")

    def _fetching(self, job: Job) -> Counter[str] | None:
        """How many hosts of each site are at it with the credential; None if all may be told."""
        if not job.credential or job.held_images:
            return None
        return Counter(target.site for target in job.still_open.values() if target.state in AT_IT)

    def _confirm(self, job: Job, host: Host, target: Target, *, trusted: bool) -> None:
        digests = _each(target.digests)
        held = sum(self._holds(host, digest) for digest in digests)
        target.confirmed = bool(digests) and held == len(digests)
        if target.confirmed or trusted:
            self._finish(job, target, TargetCause.CONFIRM, target.reason)
            return
        target.asked += 1
        if target.asked >= CONFIRM_TIMES:
            text = f"it says that it holds {len(digests)} blobs, and has announced {held} of them"
            self._finish(job, target, TargetCause.FAIL, text)
            return
        key = PreheatKey(job.order.id, host.id)
        self._state.deadlines.set(Timer(Due.PREHEAT, key), self._state.now + CONFIRM_EVERY_S)

    def _holds(self, host: Host, digest: bytes) -> bool:
        member = host.members.get(digest)
        if member is not None:
            return member.state is MemberState.COMPLETE
        return self._state.shelf.holds_whole(host, digest)

    # -- ends ------------------------------------------------------------------------------------------------------

    def _finish(self, job: Job, target: Target, cause: TargetCause, reason: str) -> None:
        """A host's part of a job is over."""
        job.step(target, cause, reason)
        self._forget(job, target)
        if job.still_open or job.is_part or job.result is not None:
            self._changed(job, (target,))
            if job.is_bounded:
                self._go_on(job, target)
            return
        self._end(job, job.outcome(), (target,))

    def _go_on(self, job: Job, target: Target) -> None:
        """A host is done, or has failed: others are told in its place, or all without the credential that it had."""
        roots = _each(target.roots)
        if job.state is not JobState.RUNNING:
            return
        here = set(roots) <= set(_each(target.digests))  # else what it says of them was not looked at
        if target.confirmed and len(roots) == len(job.order.images) and here and job.credential:
            names = [_repository(image) for image in job.order.images]
            job.held_images = tuple(f"{name}@sha256:{root.hex()}" for name, root in zip(names, roots, strict=True))
        self._tell_present(job)

    def _close(self, job: Job, cause: TargetCause) -> list[Target]:
        """End what is open; hosts that are at it are told. Returns what was open."""
        still_open = list(job.still_open.values())
        told = [self._state.hosts_by_id[each.host] for each in still_open if each.state is TargetState.TOLD]
        for target in still_open:
            reason = AWAY if target.state is TargetState.WAITING else LATE
            job.step(target, cause, reason if cause is TargetCause.FAIL else "the preheat was cancelled")
            self._forget(job, target)
        self._state.send(told, PreheatEnded(job.order.id))
        return still_open

    def _open(self, job: Job, target: Target) -> None:
        self._of_host.setdefault(target.host, {})[job.order.id] = job
        job.open(target)

    def _forget(self, job: Job, target: Target) -> None:
        job.forget(target)
        jobs = self._of_host[target.host]
        del jobs[job.order.id]
        if not jobs:
            del self._of_host[target.host]
        self._state.deadlines.cancel(Timer(Due.PREHEAT, PreheatKey(job.order.id, target.host)))

    def _end(self, job: Job, state: JobState, changed: Iterable[Target]) -> None:
        """A job is over, or that one stands is."""
        job.credential = ""
        if not (job.is_part or job.result is not None):
            self.ended[state] += 1
        if job.grows and not job.is_part and state in STANDING_STATES:
            job.result, job.pinned_until = state, self._state.now + job.order.ttl_s
            job.ends_at = job.pinned_until
            self._set_timer(job, job.pauses_at if job.state is JobState.RUNNING else job.begins_at)
            self._make_room(job)
        else:
            job.state, job.result = state, None
            self._remove(job)
        self._changed(job, changed, is_end=True)

    def _make_room(self, newest: Job) -> None:
        """A job stands: older ones that order the same do not any longer, nor more than there may be."""
        hosts = len(newest.targets)
        standing = [job for job in self.jobs.values() if job.result is not None and job is not newest]
        same = newest.order.content, newest.selection
        for number, job in enumerate(reversed(standing), 1):
            hosts += len(job.targets)
            if (job.order.content, job.selection) == same or number >= MAX_STANDING or hosts > MAX_STANDING_HOSTS:
                self._drop(job)

    def _drop(self, job: Job) -> None:
        """A job stands no longer. How it has ended stays."""
        changed = self._close(job, TargetCause.FAIL)
        self._remove(job)
        self._changed(job, changed)

    def _remove(self, job: Job) -> None:
        del self.jobs[job.order.id]
        self._state.deadlines.cancel(Timer(Due.PREHEAT, PreheatKey(job.order.id, "")))

    def _changed(self, job: Job, targets: Iterable[Target], *, is_end: bool = False) -> None:
        self._state.outbox.append(PreheatChanged(job, tuple(targets), is_end))

    def _set_timer(self, job: Job, at: float) -> None:
        self._state.deadlines.set(Timer(Due.PREHEAT, PreheatKey(job.order.id, "")), min(at, job.ends_at))


def _repository(image: str) -> str:
    """The name of an image without its tag and digest."""
    name = image.partition("@")[0]
    path, colon, tag = name.rpartition(":")
    return path if colon and "/" not in tag else name


def _each(digests: bytes) -> list[bytes]:
    """Raw digests, one after the other, as a list."""
    return [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]
