"""Images that buildah builds from a Dockerfile, and podman runs, in a storage of their own."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tests.real.podman import Podman
from tests.real.programs import Program, ProgramError, run

_BUILT_WITHIN_S: Final = 900
_HARDENED: Final = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")


class Images(Podman):
    """podman's storage, and buildah beside it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "")

    def add_base(self, name: str, archive: Path) -> None:
        """An image of the files in an archive."""
        self._run("import", "--quiet", str(archive), name)

    def build(self, name: str, dockerfile: Path, context: Path, arguments: Mapping[str, str], wheels: Path) -> None:
        """Build it with `wheels` at /wheels. The ignored files are in DOCKERFILE.dockerignore, as for docker."""
        given = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        ignored = f"--ignorefile={dockerfile}.dockerignore"
        how = ["--isolation=chroot", "--format=docker", f"--volume={wheels}:/wheels:ro", ignored]
        command = ["buildah", "build", *how, *given, f"--tag={name}", f"--file={dockerfile}", str(context)]
        run(command, self._env, _BUILT_WITHIN_S)

    def start(self, image: str, data: Path, variables: Mapping[str, str]) -> Container:
        """Run it as docs say: its root read-only, on the machine's network, with `data` as its volume."""
        data.mkdir()
        os.chown(data, *self.user(image))
        name = f"p2pd-{os.getpid()}"
        files, files_at_most = resource.getrlimit(resource.RLIMIT_NOFILE)
        here = [  # no more than this machine allows: it may have no cgroups of its own, and no systemd
            "--runtime=/usr/sbin/runc", "--cgroup-manager=cgroupfs", "run", "--rm", f"--name={name}",
            "--no-healthcheck", f"--ulimit=nofile={files}:{files_at_most}", "--ulimit=nproc=1000:1000",
        ]  # fmt: skip
        volume = f"--volume={data}:/var/lib/p2pd"
        given = [f"--env={key}={value}" for key, value in variables.items()]
        command = [*self._podman, *here, *_HARDENED, "--network=host", volume, *given, image]
        return Container(self, name, Program(command, self._env, data.with_suffix(".log")))

    def user(self, image: str) -> tuple[int, int]:
        """Whom it runs as."""
        user, group = self.inspect(image)["Config"]["User"].split(":")
        return int(user), int(group)

    def of_container(self, name: str) -> Any:
        """What podman knows of it."""
        return json.loads(self._run("container", "inspect", name))[0]

    def execute(self, name: str, *args: str) -> str:
        return self._run("--runtime=/usr/sbin/runc", "exec", name, *args)

    def remove_container(self, name: str) -> None:
        with suppress(ProgramError):  # it has ended
            self._run("--runtime=/usr/sbin/runc", "rm", "--force", name)


class Container:
    """A container that runs."""

    def __init__(self, images: Images, name: str, program: Program) -> None:
        self.program = program
        self._images, self._name = images, name

    def execute(self, *args: str) -> str:
        """Run a command in it. Raises ProgramError if that fails."""
        return self._images.execute(self._name, *args)

    def status(self) -> Mapping[str, Sequence[str]]:
        """/proc/PID/status of its first process: the words of each line."""
        pid = self._images.of_container(self._name)["State"]["Pid"]
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
        return {key: value.split() for key, _, value in (line.partition(":") for line in lines)}

    def stop(self) -> int:
        """SIGTERM, as `docker stop` sends it; returns its exit code."""
        code = self.program.terminate()
        self._images.remove_container(self._name)
        return code
