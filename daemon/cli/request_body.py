"""The request that the options of a command stand for, by the table of a schedule's fields."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Annotated, Any

import typer

from daemon.rules.schedule_fields import BOOLEAN, DURATION, FIELDS, INPUT, Kind, ScheduleField

OPTIONS = [field for field in FIELDS if field.help and not field.file_only]
"""The fields that are options of `schedules create` and `update`."""


def of_one_run(*keys: str) -> list[ScheduleField]:
    """Return fields by their keys, as options of a command that starts one run."""
    chosen = [field for field in OPTIONS if field.key in keys]
    return [replace(field, help=field.help.replace("each run", "this run")) for field in chosen]


def with_fields(fields: Iterable[ScheduleField]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command an option for each field, after its context and its argument.

    The command gets them as `**options`, by the fields' keys.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        context, argument, *others, _ = signature.parameters.values()
        added = [
            inspect.Parameter(field.key, context.kind, default=None, annotation=_option_of(field)) for field in fields
        ]
        parameters = [context, argument, *added, *others]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return command

    return decorate


def _option_of(field: ScheduleField) -> Any:  # noqa: ANN401 - an annotation
    if field.kind is BOOLEAN:
        return Annotated[bool | None, typer.Option(field.option, help=field.help)]
    return Annotated[str | None, typer.Option(field.option, metavar=field.metavar, help=field.help)]


def body_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return the request body for the given options, by the fields' keys; raise BadParameter.

    Call it once the state directory is known, see `read_input`.
    """
    body: dict[str, Any] = {}
    for field in OPTIONS:
        value = options.get(field.key)
        if value is not None:
            _put(body, field.api, _parsed(field.kind, field.option, value) if isinstance(value, str) else value)
    return body


def _put(body: dict[str, Any], name: str, value: object) -> None:
    """Set a value under a name of the API, where `a.b` is the key b of the object a."""
    *outer, last = name.split(".")
    for key in outer:
        body = body.setdefault(key, {})
    body[last] = value


def seconds_of(name: str, text: str) -> int:
    """Return the seconds of a duration; raise BadParameter if it is not one."""
    return int(_parsed(DURATION, f"--{name.replace('_', '-')}", text))


def _parsed(kind: Kind, option: str, text: str) -> Any:  # noqa: ANN401 - values of every kind
    if kind is INPUT:
        from daemon.cli.input_text import read_input

        return read_input(option, text)
    try:
        return kind.parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is {error}", param_hint=option) from None
