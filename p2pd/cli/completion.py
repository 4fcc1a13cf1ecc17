"""`p2pd completion SHELL`: prints what makes a shell complete p2pd's commands and flags."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from p2pd.cli.suggest import SuggestingChoice

_VARIABLE = "_P2PD_COMPLETE"


@click.command("completion")
@click.argument("shell", type=SuggestingChoice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, *, shell: str) -> None:
    """Print the completion for SHELL.

    \b
    bash: p2pd completion bash > /etc/bash_completion.d/p2pd
    zsh:  p2pd completion zsh > "${fpath[1]}/_p2pd"
    fish: p2pd completion fish > ~/.config/fish/completions/p2pd.fish
    """
    of_shell = get_completion_class(shell)
    assert of_shell is not None
    click.echo(of_shell(ctx.find_root().command, {}, "p2pd", _VARIABLE).source())
