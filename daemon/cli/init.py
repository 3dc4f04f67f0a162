"""`agentcron init`: a config to begin with."""

import os
from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.output import print_json, say
from daemon.cli.parameters import Json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: agentcron init ~/.config/agentcron --for claude")(init)


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Write config.toml to this directory.")] = Path(),
    recipe: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="PROGRAM", help="Run this program: claude, codex, gemini, opencode, aider, llm or acp."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Write a commented starter config."""
    from daemon.cli.starter_config import starter_config
    from daemon.errors import RefusedError
    from daemon.store.ownership import open_parent

    target = folder / "config.toml"
    try:
        text = starter_config(target, recipe)
    except LookupError as error:
        raise typer.BadParameter(str(error.args[0]), param_hint="--for") from None
    try:
        parent, name = open_parent(target, create=True)
        try:
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640, dir_fd=parent)
        finally:
            os.close(parent)
    except FileExistsError:
        raise RefusedError(f"{target} already exists; move it away, or name another directory") from None
    except OSError as error:
        raise RefusedError(f"cannot write {target}: {error.strerror}") from None
    with open(descriptor, "w", encoding="utf-8") as stream:  # noqa: PTH123 - the mode was given with the descriptor
        stream.write(text)
    if json:
        print_json({"file": str(target)})
    else:
        say(f"Wrote {target}. Edit it, then: agentcron --config {target} check")
