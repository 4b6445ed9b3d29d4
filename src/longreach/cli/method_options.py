"""Options of a command that methods of compressing declare: generated, not written down again."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand

from longreach.compressors.method import MergedOption, Option, Value, merge_options

_GIVEN = "longreach.method_options"


class MethodCommand(TyperCommand):
    """A command that has the options of methods beside its own.

    They are looked up when the command is called, so that methods of other packages have theirs.
    The command reads what was given with `given_options`.
    """

    after: ClassVar[str]
    """The parameter of the command behind which they stand in `--help`."""

    def owners(self) -> Mapping[str, Sequence[Option]]:
        """Returns the options of each method, by the method's name."""
        raise NotImplementedError

    def get_params(self, ctx: Any) -> list[Any]:
        """Returns the parameters of the command and those of methods."""
        params = super().get_params(ctx)
        names = [param.name for param in params]
        place = names.index(self.after) + 1
        generated = []
        for merged in merge_options(self.owners()):
            # An option that the command has itself must not be there twice.
            if merged.option.name not in names:
                generated.append(_parameter(merged))
        return [*params[:place], *generated, *params[place:]]


def given_options(context: typer.Context) -> dict[str, Value]:
    """Returns the options of methods that the user gave, by name."""
    return dict(context.meta.get(_GIVEN, {}))


def _parameter(merged: MergedOption) -> Any:
    """Returns an option as typer makes it of a function's argument."""
    option = merged.option

    def store(
        context: typer.Context, param: typer.CallbackParam, value: Value | None
    ) -> Value | None:
        # Under resilient parsing words are completed, and none may be refused.
        if value is not None and not context.resilient_parsing:
            option.check(value)
            context.meta.setdefault(_GIVEN, {})[option.name] = value
        return value

    def command(**_: object) -> None:
        """Has one argument, which is all that is asked of it."""

    argument = inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=typer.Option(None, option.flag, help=merged.help, callback=store),
        annotation=option.type | None,
    )
    command.__signature__ = inspect.Signature([argument])  # type: ignore[attr-defined]
    command.__annotations__ = {option.name: option.type | None}
    app = typer.Typer(add_completion=False)
    app.command()(command)
    (parameter,) = typer.main.get_command(app).params
    # The command's own function does not take it: `store` keeps it.
    parameter.expose_value = False
    return parameter
