"""Let a verb take more options than a function has arguments: they stand in a dataclass, each with its help."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def with_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Return a verb as typer is to see it: the fields of its last argument, a dataclass of options, are options."""
    hints = get_type_hints(verb, include_extras=True)
    *others, last = inspect.signature(verb, eval_str=True).parameters.values()
    group = hints[last.name]
    fields = dataclasses.fields(group)
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default if field.default_factory is dataclasses.MISSING else field.default_factory(),
            annotation=get_type_hints(group, include_extras=True)[field.name],
        )
        for field in fields
    ]

    @functools.wraps(verb)
    def call(**values: Any) -> None:
        given = {field.name: values.pop(field.name) for field in fields}
        verb(**values, **{last.name: group(**given)})

    seen = inspect.Signature([*others, *options])
    call.__signature__ = seen  # type: ignore[attr-defined]  # what typer reads
    call.__annotations__ = {name: one.annotation for name, one in seen.parameters.items()}
    return call
