"""`pvex completion`: what a shell has to be told once."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion of pvex for SHELL.

    bash: pvex completion bash > ~/.local/share/bash-completion/completions/pvex;
    zsh: pvex completion zsh > a file `_pvex` in a directory of $fpath;
    fish: pvex completion fish > ~/.config/fish/completions/pvex.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(context.find_root().command, {}, "pvex", "_PVEX_COMPLETE").source())
