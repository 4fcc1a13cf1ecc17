"""All changes or none: how files are brought to where a runtime's module wants them, and back.

Rules:
1. First everything is worked out, from the files as they would be without us (journal.py). What cannot be done exactly
   ends here, with nothing changed.
2. Then, under a lock: the journal, the files one by one, the journal again. If one fails, those before it are put back.
   If the process dies, the journal covers both what was and what should have been, and the next run goes on from there.
3. Doing the same again changes nothing. Undoing gives back each file's bytes and absence; mode and owner never change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from p2pd.configure.journal import ChangedError, Entry, Journal, decode, difference, encode
from p2pd.configure.runtime import ConfigureError, Reader, Request, Runtime, RuntimePlan, Unmarked
from p2pd.configure.tree import FileTree

STATE: Final = "/var/lib/p2pd-configure"
"""Where journals are. Not below the daemon's data directory: a service manager gives that to the daemon's user, who
could then say what root writes; and the store takes no directory in which it finds something else."""


@dataclass(frozen=True, slots=True)
class Change:
    """One file that is, or would be, changed. None: no file."""

    path: str
    before: bytes | None
    after: bytes | None

    @property
    def action(self) -> Literal["created", "changed", "removed"]:
        if self.before is None:
            return "created"
        return "removed" if self.after is None else "changed"

    @property
    def diff(self) -> str:
        return difference(self.path, self.before, self.after)


@dataclass(frozen=True, slots=True)
class ConfigureOutcome:
    """What was done, or would be. `accepted` are the files that somebody changed and that are the operator's now."""

    changes: tuple[Change, ...]
    remarks: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()


def configure(
    runtime: Runtime,
    request: Request | None,
    tree: FileTree,
    state: str = STATE,
    *,
    accept: bool = False,
    dry_run: bool = False,
) -> ConfigureOutcome:
    """Make the runtime use the mirror; with no request, put back all that was ever changed for it.

    A file that somebody changed since counts with that change, if ours can be taken out of it exactly. If not,
    ConfigureError has the difference; with `accept`, such a file is the operator's from now on: undoing leaves it as it
    is, configuring starts from it. Raises ConfigureError, with everything as it was.
    """
    work = _work_out(runtime, request, tree, state, accept=accept)
    if dry_run or (not work.outcome.changes and work.new == work.old):
        return work.outcome
    with tree.lock(state):  # worked out again: another process may have been at work until now
        return _apply(_work_out(runtime, request, tree, state, accept=accept), tree)


def pending(runtime: Runtime, request: Request, files: Reader) -> tuple[Change, ...]:
    """What `configure` would change, judged from the files alone: nothing if the runtime is configured.

    For whoever may not read the journal. Raises ConfigureError.
    """
    wanted = runtime.plan(request, Unmarked(files)).files
    changes = (Change(path, files.read(path), after) for path, after in sorted(wanted.items()))
    return tuple(change for change in changes if change.before != change.after)


@dataclass(frozen=True, slots=True)
class _Work:
    """All that is to be done: the outcome, and the journal as it is, while it is done, and afterwards."""

    outcome: ConfigureOutcome
    journal_path: str
    old: Journal
    meanwhile: Journal
    new: Journal


class _Bases:
    """The files as if p2pd had never been here."""

    def __init__(self, tree: FileTree, bases: Mapping[str, bytes | None]) -> None:
        self._files = Unmarked(tree)
        self._bases = bases

    def read(self, path: str) -> bytes | None:
        return self._bases[path] if path in self._bases else self._files.read(path)

    def names(self, directory: str) -> frozenset[str] | None:
        return self._files.names(directory)


def _journal_path(runtime: Runtime, state: str) -> str:
    return f"{state}/{runtime.journal}.json"


def _work_out(runtime: Runtime, request: Request | None, tree: FileTree, state: str, *, accept: bool = False) -> _Work:
    """What has to change so that the runtime uses the mirror; with no request, so that it was never configured."""
    journal_path = _journal_path(runtime, state)
    content = tree.read(journal_path, private=True)
    old = decode(journal_path, content) if content is not None else {}
    bases, accepted = _bases(old, tree, accept=accept)
    files = _Bases(tree, bases)
    plan = runtime.plan(request, files) if request is not None else RuntimePlan({})
    made = {directory for entry in old.values() for directory in entry.directories}
    changes, meanwhile, new = [], {}, {}
    for path in sorted({*bases, *plan.files}):
        before, base = tree.read(path), files.read(path)
        after = plan.files.get(path, base)
        entry = Entry(base, (after,) if after is not None else (), _made(tree, path, made))
        if after != base:
            new[path] = entry
        if before != after:
            changes.append(Change(path, before, after))
            ours = tuple(one for one in (before, after) if one is not None)
            meanwhile[path] = Entry(base, ours, entry.directories)
        elif path in new:
            meanwhile[path] = entry
    outcome = ConfigureOutcome(tuple(changes), plan.remarks, accepted)
    return _Work(outcome, journal_path, old, meanwhile, new)


def _bases(journal: Journal, tree: FileTree, *, accept: bool) -> tuple[dict[str, bytes | None], tuple[str, ...]]:
    bases, changed = {}, []
    for path, entry in journal.items():
        try:
            bases[path] = entry.base(path, tree.read(path))
        except ChangedError as error:
            changed.append(error)
    if changed and not accept:
        raise ConfigureError(
            "\n".join(str(error) for error in changed)
            + "\nNothing was changed. Take that back; or say --accept-changes to have these files as they are now, "
            "after taking out by hand what is p2pd's if it is to go."
        )
    return bases, tuple(error.path for error in changed)


def _made(tree: FileTree, path: str, made: set[str]) -> tuple[str, ...]:
    """The directories above `path`, outermost first, that do not exist yet or were `made` by us for any file."""
    parts = path.strip("/").split("/")[:-1]
    above = ["/" + "/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return tuple(directory for directory in above if directory in made or tree.names(directory) is None)


def _apply(work: _Work, tree: FileTree) -> ConfigureOutcome:
    tried: list[Change] = []
    try:
        _keep(tree, work.journal_path, work.meanwhile)
        for change in work.outcome.changes:
            tried.append(change)
            _put(tree, change.path, change.after, work.meanwhile[change.path].directories)
        _keep(tree, work.journal_path, work.new)
    except BaseException as error:
        _put_back(work, tree, tried, error)
        if isinstance(error, ConfigureError):
            raise ConfigureError(f"{error}; everything was put back as it was") from error
        raise
    return work.outcome


def _put_back(work: _Work, tree: FileTree, tried: list[Change], cause: BaseException) -> None:
    """Undo what was done of the work. Raises ConfigureError if that fails too; the journal then still covers it."""
    try:
        for change in reversed(tried):
            if change.before is None or tree.read(change.path) != change.before:
                _put(tree, change.path, change.before, work.meanwhile[change.path].directories)
        _keep(tree, work.journal_path, work.old)
    except ConfigureError as error:
        raise ConfigureError(
            f"{cause}; and then it could not be put back: {error}. `p2pd configure ... --undo` does that later."
        ) from cause


def _keep(tree: FileTree, path: str, journal: Journal) -> None:
    if journal:
        tree.write(path, encode(journal), private=True)
    else:
        tree.remove(path, ())


def _put(tree: FileTree, path: str, content: bytes | None, directories: tuple[str, ...]) -> None:
    if content is None:
        tree.remove(path, directories)
    else:
        tree.write(path, content)
