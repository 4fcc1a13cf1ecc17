"""The command `p2pd`: finds the subcommand, and ends every error of ours as one line and an exit code.

Exit codes: 0 done, 1 failed, 2 used wrongly (flags or configuration), 130 interrupted with Ctrl-C.
A subcommand's module is imported only when it runs: `p2pd run` does not wait for the imports of `p2pd pull`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

import click

from p2pd.cli.suggest import SuggestingGroup

COMMANDS: Final = {
    "run": "Run one node: the mirror and its cache.",
    "scheduler": "Run a scheduler alone, for nodes that join it.",
    "status": "Show how the daemon on this node is.",
    "top": "Show what this node, or the cluster, does now.",
    "config": "Show the settings in force, and where each is from.",
    "reload": "Have the daemon read its settings again.",
    "drain": "Have the daemon finish what is under way, and stop.",
    "doctor": "Check this node's set-up and say what to change.",
    "support-bundle": "Collect what those who help ask for, without secrets.",
    "configure": "Make a container runtime use the mirror, or undo that.",
    "pull": "Pull an image through the mirror into its cache.",
    "preheat": "Have images fetched to hosts before their clients ask.",
    "site": "Carry images to sites without a line, in a directory or a tar.",
    "predict": "Show which images will be pulled soon, and where.",
    "cache": "List, verify and remove what is cached.",
    "token": "Make, list and revoke the tokens with which hosts join a cluster.",
    "host": "List and revoke the hosts of a cluster.",
    "plan": "Say how long a rollout will take, and what to change first.",
    "demo": "Show a swarm at work on this machine, with a registry of its own.",
    "version": "Show the version of this command, and of the daemon.",
    "completion": "Print the completion for bash, zsh or fish.",
}
"""Each command is `p2pd.cli.<name>.<name>`, with _ for -. `p2pd --help` shows the text here and imports no command."""

GROUPS: Final = {
    "Run": ("run", "scheduler", "reload", "drain"),
    "Set up": ("configure", "doctor"),
    "Look": ("status", "top", "config", "support-bundle", "version"),
    "Images": ("pull", "preheat", "predict", "site", "cache"),
    "Cluster": ("token", "host", "plan", "demo"),
}
"""The commands by purpose, for `p2pd --help`. The others follow."""


class Failure(click.ClickException):
    """A P2pdError as click's exception, with exit code 1."""

    def show(self, file: Any = None) -> None:
        """The first line says whose message it is. Lines below it may be for pasting, so they are as they are."""
        click.echo(f"p2pd: {self.message}", file=file, err=True)


class Misuse(Failure):
    """A ConfigError as click's exception, with exit code 2."""

    exit_code = 2


class App(SuggestingGroup):
    """A group whose commands are imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 # click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"p2pd.cli.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        named = {name for names in GROUPS.values() for name in names}
        for title, names in {**GROUPS, "More": tuple(name for name in COMMANDS if name not in named)}.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{max(map(len, COMMANDS))}}", COMMANDS[name]) for name in names])

    def invoke(self, ctx: click.Context) -> Any:
        from p2pd.config.values import ConfigError
        from peer.errors import P2pdError
        from scheduler.trust.errors import TrustError

        try:
            return super().invoke(ctx)
        except ConfigError as error:
            raise Misuse(str(error)) from None
        except (P2pdError, TrustError) as error:
            raise Failure(str(error)) from None
        except KeyboardInterrupt:
            ctx.exit(130)  # 128 + SIGINT, as a shell reports it


@click.command(cls=App, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="p2pd", message="%(prog)s %(version)s")
def app() -> None:
    """A registry mirror for every node of a cluster.

    Each byte leaves the registry once; the rest is exchanged between nodes, verified by digest.
    """
