"""Writes t/fixtures/chat/constructs.json: templates and what Jinja makes of them.

Usage: python3 t/gen/chat.py > t/fixtures/chat/constructs.json

Expected values come from jinja2 with the environment that transformers uses for chat templates:
ImmutableSandboxedEnvironment, trim_blocks, lstrip_blocks, loop controls, {% generation %}, its own
tojson, raise_exception and strftime_now (here at a fixed time, UTC).
"""
import datetime
import json
import sys
import traceback

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from chat_cases import CASES

NOW = datetime.datetime(2024, 7, 4, 15, 6, 9)


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)

    class Namespace(jinja2.utils.Namespace):
        def __init__(*args, **kwargs):
            self, args = args[0], args[1:]
            attrs = dict(*args, **kwargs)
            for name in attrs:
                Namespace.check(name)
            jinja2.utils.Namespace.__init__(self, attrs)

        def __setitem__(self, name, value):
            Namespace.check(name)
            jinja2.utils.Namespace.__setitem__(self, name, value)

        @staticmethod
        def check(name):
            if isinstance(name, str) and name.startswith("_"):
                raise jinja2.exceptions.SecurityError("underscore")

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda fmt: NOW.strftime(fmt)
    env.globals["namespace"] = Namespace
    return env


def line_of(error):
    """Template line at which a rendering stopped."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == "<template>"]
    return lines[-1] if lines else 1


def outcome(env, source, variables):
    try:
        return {"rendered": env.from_string(source).render(**variables)}
    except jinja2.exceptions.UndefinedError as e:
        return {"error": "undefined value: " + e.message, "line": line_of(e)}
    except jinja2.exceptions.TemplateSyntaxError as e:
        return {"error": "syntax error" if type(e) is jinja2.exceptions.TemplateSyntaxError else "unknown",
                "line": e.lineno}
    except jinja2.exceptions.SecurityError as e:
        return {"error": "invalid operation", "line": line_of(e)}
    except jinja2.exceptions.TemplateRuntimeError as e:
        return {"error": "invalid operation: " + e.message, "line": line_of(e)}
    except jinja2.exceptions.TemplateError as e:
        return {"error": "syntax error: " + (e.message or ""), "line": line_of(e)}
    except Exception as e:                              # what Python itself raises
        return {"error": "", "line": line_of(e), "python": f"{type(e).__name__}: {e}"}


def main():
    env, out = environment(), []
    for name, source, variables in CASES:
        out.append({"name": name, "template": source, "vars": variables, **outcome(env, source, variables)})
    json.dump({"jinja2": jinja2.__version__, "cases": out}, sys.stdout, ensure_ascii=False, indent=1)
    print()


main()
