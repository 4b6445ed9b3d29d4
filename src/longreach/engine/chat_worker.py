"""The other end of `engine.chat`: renders one chat template, in a process that may not take much.

Run as a script; it imports nothing but Jinja. The environment is that of transformers'
`render_jinja_template`.
"""

import json
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what an assistant says, and renders as what is in it."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own way)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller: Callable[[], str]) -> str:
        return caller()


class _Namespace(jinja2.utils.Namespace):
    def __setitem__(self, name: str, value: object) -> None:
        # Names of this form are how templates try to get out of the sandbox.
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"an attribute called {name!r} is not safe")
        super().__setitem__(name, value)


def render(template: str, variables: dict[str, object]) -> str:
    """The text that a chat template makes of its variables."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    # Jinja's own filter escapes for HTML, which a prompt is not.
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.globals["namespace"] = _Namespace
    return environment.from_string(template).render(**variables)


def _raise(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    **more: Any,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, **more
    )


def _limit(memory_bytes: int, seconds: int) -> None:
    try:
        import resource
    except ImportError:  # Windows: the time that the other end waits has to do
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    # SIGXCPU comes at the first limit, SIGKILL at the second, in seconds of computing.
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    # A process that a limit ends would leave a core file behind.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Reads a JSON object on stdin and writes one on stdout."""
    asked = json.loads(sys.stdin.read())
    _limit(asked["memory_bytes"], asked["seconds"])
    said: dict[str, Any]
    try:
        text = render(asked["template"], asked["variables"])
        if len(text) > asked["characters"]:
            # A text beyond bounds is reported like memory beyond bounds.
            raise MemoryError
        said = {"text": text}
    except MemoryError:
        said = {"large": True}
    except Exception as error:
        said = {"error": f"{type(error).__name__}: {error}"[:500]}
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main()
