#!/usr/bin/env python3
"""constrained.t - outputs of the server under grammars, judged by other programs.

Schemas as applications write them, through every form of request: each text must be JSON that the jsonschema package accepts.
Regular expressions: each text must match with Python's re. The model is random, so texts reach corners that a
trained one never visits; the vocabulary is a real one where LLM_TEST_MODEL names such a model.
"""
import http.client
import json
import os
import re

import harness

harness.environment("venv")
import jsonschema  # noqa: E402
import tap  # noqa: E402

REAL = os.environ.get("LLM_TEST_MODEL") or os.path.join(harness.CACHE, "models", "SmolLM2-135M-Instruct.Q4_1.gguf")
CONF = """
    llm_model tiny { weights {root}/t/fixtures/gguf/smollm2-Q4_1.gguf; context 4096; kv_cache 64m; }
""" + (f'    llm_model real {{ weights "{REAL}"; context 4096; kv_cache 192m; }}\n' if os.path.exists(REAL) else "") + """
    server {
        listen 127.0.0.1:{port};
        location / { llm_pass tiny; }
""" + ("        location /real/ { llm_pass real; }\n" if os.path.exists(REAL) else "") + "    }\n"
PATHS = ["", "/real"] if os.path.exists(REAL) else [""]

S = {"type": "string", "maxLength": 12}
SCHEMAS = {
    "flat": {"type": "object", "properties": {"name": S, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
             "required": ["name", "age"]},
    "optional": {"type": "object", "properties": {k: {"type": "boolean"} for k in "abcdefghij"}, "required": ["b", "h"],
                 "additionalProperties": False},
    "enum": {"enum": ["red", "green", 3, None, True, ["x"], {"a": 1}]},
    "const": {"type": "object", "properties": {"kind": {"const": "é\n\"x\""}}, "required": ["kind"]},
    "array": {"type": "array", "items": {"type": "integer", "minimum": -5, "maximum": 12}, "minItems": 2, "maxItems": 4},
    "tuple": {"type": "array", "prefixItems": [{"const": 1}, S], "items": False, "minItems": 2},
    "nested": {"type": "object", "required": ["people"], "properties": {"people": {
        "type": "array", "minItems": 1, "maxItems": 2, "items": {"$ref": "#/$defs/person"}}},
        "$defs": {"person": {"type": "object", "properties": {"n": S, "tags": {"type": "array", "items": S, "maxItems": 2}},
                             "required": ["n"]}}},
    "recursive": {"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties": {
        "v": {"type": "integer", "minimum": 0, "maximum": 9},
        "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}}, "required": ["v", "next"]}}},
    "anyOf": {"anyOf": [{"type": "string", "pattern": "^[a-f]{2,4}$"}, {"type": "integer", "minimum": 100, "maximum": 999}]},
    "formats": {"type": "object", "properties": {"d": {"type": "string", "format": "date"},
                                                 "u": {"type": "string", "format": "uuid"}}, "required": ["d", "u"]},
    "nullable": {"type": "object", "properties": {"x": {"type": ["string", "null"], "maxLength": 5}}, "required": ["x"]},
    "lengths": {"type": "string", "minLength": 3, "maxLength": 5},
    "allOf": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 7}]},
    "number": {"type": "object", "properties": {"p": {"type": "number"}}, "required": ["p"]},
}
REGEXES = [r"[A-Z]{2}[0-9]{1,3}", r"(https?)://[a-z]{1,8}\.(de|fr|org)(/[a-z0-9]{0,4}){0,2}", r"\d{1,3}(\.\d{1,3}){3}", r"(?:[01]\d|2[0-3]):[0-5]\d",
           r"[^\x00-\x1f]{1,6}", r"(a|bc|def){2,4}", r"\w{2,4} \w{2,4}", r"[+-]?\d{1,4}(\.\d{1,3})?([eE][+-]?\d)?", r"Yes\.|No\.|[一-龥]{2}"]


def post(s, path, body):
    c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=120)
    c.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    r = c.getresponse()
    data = r.read()
    c.close()
    return r.status, data


def answer(s, path, body):
    status, data = post(s, path, body)
    assert status == 200, (status, data)
    return json.loads(data)


def chunks(s, path, body):
    status, data = post(s, path, {**body, "stream": True})
    assert status == 200, (status, data)
    events = [line[6:] for line in data.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(e) for e in events if e != "[DONE]"]


def outputs(s, base, form):
    """(text, whether it ended by itself) of a grammar by every route."""
    native = {"do_sample": True, "temperature": 1.3, "max_new_tokens": 700, "details": True, "grammar": form}
    for seed in 1, 2:
        j = answer(s, base + "/generate", {"inputs": "Give me data: ", "parameters": {**native, "seed": seed}})
        yield j["generated_text"], j["details"]["finish_reason"] == "eos_token"
    common = {"temperature": 1.2, "seed": 7, "max_tokens": 700, "response_format": form}
    c = answer(s, base + "/v1/completions", {"prompt": "Give me data: ", **common})["choices"][0]
    yield c["text"], c["finish_reason"] == "stop"
    chat = {"messages": [{"role": "user", "content": "Give me data."}], **common}
    c = answer(s, base + "/v1/chat/completions", chat)["choices"][0]
    yield c["message"]["content"], c["finish_reason"] == "stop"
    got = chunks(s, base + "/v1/chat/completions", chat)
    text = "".join(e["choices"][0]["delta"]["content"] for e in got)
    harness.equal(text, c["message"]["content"], "the stream is the answer")


def judge(value, schema):
    checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    checker.validate(value)


def each(s, cases):
    """Calls check(text) for the outputs of all (form, check); most must have come to their end."""
    ended = total = 0
    for base in PATHS:
        for form, check in cases:
            for text, whole in outputs(s, base, form):
                total += 1
                ended += whole
                if whole:
                    try:
                        check(text)
                    except Exception as e:
                        raise AssertionError(f"{base} {form}: {text!r}") from e
    assert ended > 0.9 * total, f"only {ended} of {total} texts came to their end"


def test_schemas(s):
    """texts of schemas are accepted by jsonschema"""
    def check(schema):
        return lambda text: judge(json.loads(text), schema)
    each(s, [({"type": "json_schema", "value": {"name": name, "schema": schema}}, check(schema)) for name, schema in SCHEMAS.items()])


def test_regexes(s):
    """texts of regular expressions match with Python's re"""
    def check(regex):
        def match(text):
            assert re.fullmatch(regex, text)
        return match
    each(s, [({"type": "regex", "value": regex}, check(regex)) for regex in REGEXES])


def test_tools(s):
    """arguments of calls are accepted by jsonschema, whole and in chunks"""
    schemas = {name: schema for name, schema in SCHEMAS.items() if schema.get("type") == "object"}
    tools = [{"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in schemas.items()]
    n = 0
    for base in PATHS:
        for seed in range(6):
            body = {"messages": [{"role": "user", "content": "Call one."}], "tools": tools, "tool_choice": "required",
                    "temperature": 1.2, "seed": seed, "max_tokens": 700, "parallel_tool_calls": seed % 2 == 0}
            c = answer(s, base + "/v1/chat/completions", body)["choices"][0]
            calls = [(t["function"]["name"], t["function"]["arguments"]) for t in c["message"]["tool_calls"]]
            streamed = {}
            for e in chunks(s, base + "/v1/chat/completions", body):
                for t in e["choices"][0]["delta"].get("tool_calls", []):
                    name, text = streamed.get(t["index"], ("", ""))
                    streamed[t["index"]] = (name + t["function"].get("name", ""), text + t["function"]["arguments"])
            harness.equal(list(streamed.values()), calls, "chunks")
            if c["finish_reason"] == "length":
                calls.pop()
            for name, text in calls:
                judge(json.loads(text), schemas[name])
                n += 1
    assert n >= 6 * len(PATHS), f"only {n} calls"


with harness.Server(CONF) as s:
    harness.run(globals(), s)
tap.done_testing()
