"""How `--help` looks: arguments as `RUN` or `[DIR]`, and no names of Python types."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Command(TyperCommand):
    """A command that shows its arguments as click does; typer shows `{RUN}` and `RUN <int>`."""

    def collect_usage_pieces(self, ctx: "Context") -> list[str]:
        """Return the parts of the usage line."""
        return [piece.removeprefix("{").removesuffix("}") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """Write the arguments and the options below the usage line."""
        arguments, options = [], []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            if parameter.param_type_name == "argument":
                arguments.append((parameter.metavar or parameter.name, record[1]))
            else:
                options.append(record)
        for title, records in (("Arguments", arguments), ("Options", options)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class CommandGroup(typer.Typer):
    """Commands that share a noun, such as `runs`; called without a command, it shows its help."""

    def __init__(self, *, help: str, epilog: str, **settings: Any) -> None:  # noqa: A002, ANN401 - typer's signature
        """Take what typer takes."""
        super().__init__(help=help, epilog=epilog, no_args_is_help=True, rich_markup_mode=None, **settings)

    def command(
        self,
        name: str | None = None,
        *,
        cls: type[TyperCommand] | None = Command,
        **settings: Any,  # noqa: ANN401 - typer's signature
    ) -> Callable[[_Function], _Function]:
        """Return a decorator that adds a command."""
        return super().command(name, cls=cls, **settings)
