"""What a method says about itself before any of its code is loaded. Imports no torch."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from longreach.errors import ModelError, UsageError

if TYPE_CHECKING:
    from longreach.compressors.base import Compressor
    from longreach.compressors.recipe import Recipe

Value = int | float | str
"""A value of an option."""


@dataclass(frozen=True)
class Option:
    """A setting of a method: an argument in Python, an option on the command line.

    Attributes:
        name: As an argument, such as `segment_tokens`; the option is `--segment-tokens`.
        type: int, float or str.
        help: A sentence for `--help`.
        default: What the method takes where nothing is given; None where that depends, for example
            on what was trained.
        least: The lowest value; None where there is none.
        most: The highest value; None where there is none.
        choices: The values that there are; empty where any will do.
    """

    name: str
    type: type[int] | type[float] | type[str]
    help: str
    default: Value | None = None
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """The option on the command line."""
        return "--" + self.name.replace("_", "-")

    def check(self, value: Value) -> None:
        """Raises UsageError where a value is out of range."""
        if self.choices and value not in self.choices:
            listed = ", ".join(self.choices)
            raise UsageError(f"{self.name} is '{value}'; it must be one of {listed}.")
        # Only numbers have limits.
        if isinstance(value, str):
            return
        # Where there is no limit, NaN and infinity would pass.
        if not math.isfinite(value) or (self.least is not None and value < self.least):
            raise UsageError(f"{self.name} is {value}; it must be at least {self.least}.")
        if self.most is not None and value > self.most:
            raise UsageError(f"{self.name} is {value}; it must be at most {self.most}.")


@dataclass(frozen=True)
class Method:
    """A method of compressing.

    Attributes:
        name: What users call it, such as `mean-pool`.
        home: Where its `Compressor` lies, as `package.module:Class`; imported when it is needed.
        options: What users may set when they make one.
        untrained: Whether one can be made without training; else it is loaded from a folder.
        changes_model: Whether some of its corpora belong to a model that it has changed: their
            model fingerprint is not that of the bare model.
        training: Where its `Recipe` lies, in the same form; empty where it is not trained.
        training_options: What users may set when they train one.
    """

    name: str
    home: str
    options: tuple[Option, ...] = ()
    untrained: bool = True
    changes_model: bool = False
    training: str = ""
    training_options: tuple[Option, ...] = ()

    def compressor(self) -> "type[Compressor]":
        """Imports and returns the class of its compressors."""
        return load_object(self.home)

    def check(self, settings: Mapping[str, Value], *, flags: bool = False) -> None:
        """Checks settings of a compressor.

        Args:
            settings: By the names of options.
            flags: Speak of options as they are on the command line.

        Raises:
            UsageError: One is not an option of this method, or its value is out of range.
        """
        check_options(f"The compressor '{self.name}'", self.options, settings, flags=flags)

    def make_recipe(self, options: Mapping[str, Value], **shared: object) -> "Recipe":
        """Returns how a compressor is trained that a user asked for on the command line.

        Args:
            options: Those of `training_options` that were given; the others take their defaults.
            **shared: Fields of `Recipe` that all methods have.

        Raises:
            UsageError: One is not an option of this training, or a value is out of range.
        """
        owner = f"The training of '{self.name}'"
        check_options(owner, self.training_options, options, flags=True)
        settings: dict[str, Value] = {}
        for option in self.training_options:
            if option.default is not None:
                settings[option.name] = option.default
        return load_object(self.training).from_options({**settings, **options}, **shared)


def check_options(
    owner: str, options: Sequence[Option], settings: Mapping[str, Value], *, flags: bool = False
) -> None:
    """Checks settings against options. Arguments and errors are those of `Method.check`."""
    known = {option.name: option for option in options}
    for name, value in settings.items():
        if name not in known:
            listed = spell_options(options, flags=flags)
            # It is no option of this method, so there is none whose `flag` could be asked.
            asked = "--" + name.replace("_", "-") if flags else name
            raise UsageError(f"{owner} has no option {asked}: it has {listed}.")
        known[name].check(value)


def spell_options(options: Sequence[Option], *, flags: bool) -> str:
    """Returns the names of options as part of a sentence."""
    names = []
    for option in options:
        names.append(option.flag if flags else option.name)
    return ", ".join(names) or "none"


class MergedOption(NamedTuple):
    """An option of the command line that stands for one of the same name in several methods.

    Attributes:
        option: Its name, type and limits, the widest of them all.
        help: What it means, and what the default of each method is.
    """

    option: Option
    help: str


def merge_options(owners: Mapping[str, Sequence[Option]]) -> list[MergedOption]:
    """Returns each option once, in the order in which they first come.

    Args:
        owners: The options of each method, by the method's name.
    """
    # One option of the command line serves all methods that have one of its name; what a method
    # takes is checked once it is known which one is meant.
    found: dict[str, dict[str, Option]] = {}
    for owner, options in owners.items():
        for option in options:
            found.setdefault(option.name, {})[owner] = option
    merged = []
    for name, of_owner in found.items():
        variants = list(of_owner.values())
        kinds = {variant.type for variant in variants}
        # A dict keeps the order in which choices are first named, which help texts show.
        choices: dict[str, None] = {}
        for variant in variants:
            choices |= dict.fromkeys(variant.choices)
        widest = Option(
            name=name,
            # Where one method takes whole numbers and another any, float reads both.
            type=float if kinds == {int, float} else variants[0].type,
            help=variants[0].help,
            least=_widest([variant.least for variant in variants], min),
            most=_widest([variant.most for variant in variants], max),
            choices=tuple(choices),
        )
        merged.append(MergedOption(widest, _explain(of_owner, everywhere=len(owners))))
    return merged


def _widest(
    limits: Sequence[float | None], choose: Callable[[Sequence[float]], float]
) -> float | None:
    """Returns the limit that lets most values pass; None where one of them lets all pass."""
    known = [limit for limit in limits if limit is not None]
    return choose(known) if len(known) == len(limits) else None


def _explain(of_owner: Mapping[str, Option], *, everywhere: int) -> str:
    """Returns the help of an option with the methods that have it and their defaults."""
    texts: dict[str, list[str]] = {}
    defaults = {}
    for owner, option in of_owner.items():
        texts.setdefault(option.help, []).append(owner)
        if option.default is not None:
            defaults[owner] = option.default
    # Every method has the option and means the same by it, so none has to be named.
    if len(texts) == 1 and len(of_owner) == everywhere:
        said = next(iter(texts))
    else:
        said = " ".join(f"{', '.join(names)}: {text}" for text, names in texts.items())
    if not defaults:
        return said
    if len(defaults) == len(of_owner) and len(set(defaults.values())) == 1:
        return f"{said} [default: {next(iter(defaults.values()))}]"
    listed = "; ".join(f"{owner}: {value}" for owner, value in defaults.items())
    return f"{said} [default: {listed}]"


def load_object(path: str) -> Any:
    """Imports what lies at `package.module:Name`.

    Raises:
        ModelError: There is no such module, or nothing of that name in it.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    # An empty module name raises ValueError.
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        raise ModelError(
            f"'{path}' cannot be imported ({error}): install the package that announces it."
        ) from error
