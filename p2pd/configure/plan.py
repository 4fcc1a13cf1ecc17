"""All changes or none: the files that a runtime's module wants are written together, and undone together.

Rules:
1. First all changes are planned, from the files as they would be without p2pd (journal.py). A change that is not exact
   is an error here, before anything is written.
2. Then, under a lock: the journal, the files one by one, the journal again. If a write fails, the earlier ones are
   undone. If the process dies, the journal covers both the old and the new bytes, and the next run goes on from there.
3. A second run changes nothing. Undoing restores each file's bytes or absence; mode and owner never change.
4. What others have changed since stays: a file in which the request is still met is left as it is, and undoing takes
   out what is p2pd's. A file that several runtimes need is undone with the last of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Literal

from p2pd.configure.journal import ChangedError, Entry, Journal, decode, difference, encode
from p2pd.configure.runtime import ConfigureError, Reader, Request, Runtime, RuntimePlan, Unmarked
from p2pd.configure.tree import FileTree

STATE: Final = "/var/lib/p2pd-configure"
"""The directory of journals. It is not below the daemon's data directory, for two reasons: the daemon's user owns that
and could then choose the bytes that root writes, and the store refuses a directory with foreign files."""


@dataclass(frozen=True, slots=True)
class Change:
    """One file that was or would be changed. None: no file."""

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
    """The changes that were or would be made. `accepted` are changed files that now count as the operator's."""

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
    """Make the runtime use the mirror; without a request, undo all changes that were ever made for it.

    If a file was changed since, that change is kept: a file that says what is wanted is left as it is, and undoing
    takes out what is ours. If that is not possible exactly, ConfigureError has the difference. With `accept`, such a
    file counts as the operator's: undoing leaves it as it is, and configuring starts from it. After a ConfigureError,
    all files are as they were.
    """
    work = _work_out(runtime, request, tree, state, accept=accept)
    if dry_run or (not work.outcome.changes and work.new == work.old):
        return work.outcome
    with tree.lock(state):  # planned again: another process may have changed files before the lock
        return _apply(_work_out(runtime, request, tree, state, accept=accept), tree)


def pending(runtime: Runtime, request: Request, files: Reader) -> tuple[Change, ...]:
    """The changes that `configure` would make, by the files alone: none if the runtime is configured.

    It is for users who may not read the journal. Raises ConfigureError.
    """
    wanted = runtime.plan(request, Unmarked(files)).files
    changes = (Change(path, files.read(path), after) for path, after in sorted(wanted.items()))
    return tuple(change for change in changes if change.before != change.after)


@dataclass(frozen=True, slots=True)
class _Work:
    """The planned work: the outcome, and the journal before, during and after the work."""

    outcome: ConfigureOutcome
    journal_path: str
    old: Journal
    meanwhile: Journal
    new: Journal


class _Bases:
    """The files as they would be if p2pd had never changed them."""

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
    """The changes that make the runtime use the mirror; without a request, those that undo all earlier ones."""
    journal_path = _journal_path(runtime, state)
    content = tree.read(journal_path, private=True)
    old = decode(journal_path, content) if content is not None else {}
    bases, changed = _bases(old, tree)
    accepted = set(changed) if accept else set()
    met = {path for path in set(old) - accepted if request is not None and _is_met(path, runtime, request, tree, old)}
    files = _Bases(tree, {**bases, **{path: tree.read(path) for path in met}})
    plan = runtime.plan(request, files) if request is not None else RuntimePlan({})
    shared = {path: entry for path, entry in old.items() if path not in plan.files and _others(entry, runtime)}
    changed = {path: error for path, error in changed.items() if path not in {*shared, *accepted}}
    if request is None:
        _refuse(changed)
    made = {directory for entry in old.values() for directory in entry.directories} | _made_for_others(tree, state)
    changes: list[Change] = []
    meanwhile: dict[str, Entry] = {}
    new: dict[str, Entry] = {}
    for path in sorted({*bases, *plan.files}):
        earlier = old.get(path)
        others = _others(earlier, runtime) if earlier is not None else ()
        if earlier is not None and path in shared:
            meanwhile[path] = new[path] = replace(earlier, runtimes=others)
            continue
        before, base = tree.read(path), files.read(path)
        after = plan.files.get(path, base)
        if path in changed and before != after:
            _refuse(changed)
        entry = Entry(base, (after,) if after is not None else (), _made(tree, path, made), (*others, runtime.name))
        if earlier is not None and path in {*met, *changed}:  # others have changed it: what is ours is what it was
            meanwhile[path] = new[path] = replace(earlier, runtimes=entry.runtimes)
            continue
        if after != base:
            new[path] = entry
        if before != after:
            changes.append(Change(path, before, after))
            meanwhile[path] = replace(entry, ours=tuple(one for one in (before, after) if one is not None))
        elif path in new:
            meanwhile[path] = entry
    remarks = (*plan.remarks, *runtime.remarks(request)) if request is not None else _left(runtime, old, bases, tree)
    outcome = ConfigureOutcome(tuple(changes), remarks, tuple(sorted(accepted)))
    return _Work(outcome, journal_path, old, meanwhile, new)


def _bases(journal: Journal, tree: FileTree) -> tuple[dict[str, bytes | None], dict[str, ChangedError]]:
    """The bases by path, and the files of which p2pd's change cannot be taken out."""
    bases, changed = {}, {}
    for path, entry in journal.items():
        try:
            bases[path] = entry.base(path, tree.read(path))
        except ChangedError as error:
            changed[path] = error
            bases[path] = tree.read(path)
    return bases, changed


def _is_met(path: str, runtime: Runtime, request: Request, tree: FileTree, journal: Journal) -> bool:
    """Whether others have changed the file since, and it needs nothing: the request is what it was, and is met."""
    entry, present = journal[path], tree.read(path)
    if present is None or entry.is_untouched(present):
        return False
    originals = {one: each.original for one, each in journal.items()}
    try:
        wrote = runtime.plan(request, _Bases(tree, originals)).files.get(path)
        wanted = runtime.plan(request, _Bases(tree, {**originals, path: present})).files.get(path, present)
    except ConfigureError:
        return False
    return wrote in entry.ours and wanted == present


def _refuse(changed: Mapping[str, ChangedError]) -> None:
    """Raises ConfigureError if there is such a file."""
    if changed:
        raise ConfigureError(
            "\n".join(str(error) for error in changed.values())
            + "\nNothing was changed: p2pd cannot take its part out of that. Take it out by hand; then run this again "
            "with --accept-changes, which leaves such a file as it is."
        )


def _left(runtime: Runtime, journal: Journal, bases: Mapping[str, bytes | None], tree: FileTree) -> tuple[str, ...]:
    """What undoing leaves of the files that others have changed since p2pd did."""
    left = []
    for path, entry in sorted(journal.items()):
        present = tree.read(path)
        if others := _others(entry, runtime):
            if runtime.name in entry.runtimes:
                left.append(f"{path} was left as it is: it is for {' and '.join(others)} too.")
        elif entry.is_untouched(present):
            continue
        elif present is None:
            left.append(f"{path} was removed by somebody else: it stays away.")
        elif bases[path] == present:
            left.append(f"{path} was changed by somebody else and has nothing of p2pd's any more: left as it is.")
        else:
            left.append(f"{path} was changed by somebody else: p2pd's part was taken out, and the rest is left.")
    return tuple(left)


def _others(entry: Entry, runtime: Runtime) -> tuple[str, ...]:
    """The other runtimes that need p2pd's change of the file."""
    return tuple(name for name in entry.runtimes if name != runtime.name)


def _made_for_others(tree: FileTree, state: str) -> set[str]:
    """The directories that were made for any runtime. The last runtime to go takes away what several have used."""
    made: set[str] = set()
    for name in tree.names(state) or ():
        with suppress(ConfigureError):  # a journal that cannot be read is told to those whose it is
            content = tree.read(f"{state}/{name}", private=True)
            journal = decode(name, content) if content is not None else {}
            made.update(directory for entry in journal.values() for directory in entry.directories)
    return made


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
    """Undo the finished part of the work. Raises ConfigureError if undoing fails; the journal then covers the rest."""
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
