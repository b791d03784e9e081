#!/usr/bin/env python3
"""openapi_check.py - judges exchanges by an OpenAPI document.

Reads {"document": {...}, "exchanges": [{"name", "method", "path", "request", "status", "type", "body", "events"}, ...]} from
stdin, where path is the key in "paths". Prints one line of JSON: {"document": [complaints], "exchanges": [[complaints], ...],
"fits": [whether the request fits its schema, or null]}. Exits with 77 when a package is missing.
"""
import json
import sys

try:
    import jsonschema
    import openapi_spec_validator
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT202012
except ImportError as e:
    print(e, file=sys.stderr)
    sys.exit(77)

given = json.load(sys.stdin)
document = given["document"]
registry = Registry().with_resource("urn:doc", Resource.from_contents(document, default_specification=DRAFT202012))


def deref(value):
    while "$ref" in value:
        node = document
        for key in value["$ref"][2:].split("/"):
            node = node[key.replace("~1", "/").replace("~0", "~")]
        value = node
    return value


def absolute(value):
    """The schema with references into the document made absolute."""
    if isinstance(value, dict):
        return {k: ("urn:doc" + v if k == "$ref" and v.startswith("#") else absolute(v)) for k, v in value.items()}
    return [absolute(v) for v in value] if isinstance(value, list) else value


def complaints(schema, value):
    # references of the document itself start at the root of urn:doc
    validator = jsonschema.Draft202012Validator(absolute(schema), registry=registry)
    return [f"{e.json_path}: {e.message[:300]}" for e in validator.iter_errors(value)]


def contents(schema):
    """The schemas of the JSON in the data of events."""
    schema = deref(schema)
    found = [schema["contentSchema"]] if "contentSchema" in schema else []
    for inner in schema.get("anyOf", []) + [v for k, v in schema.get("properties", {}).items() if k == "data"]:
        found += contents(inner)
    return found


def judge(x):
    operation = document["paths"].get(x["path"], {}).get(x["method"].lower())
    if operation is None:
        return ["the document has no such operation"], None
    fits = None
    if x.get("request") is not None:
        body = deref(operation["requestBody"])["content"]["application/json"]["schema"]
        fits = not complaints(body, x["request"])
    response = operation["responses"].get(str(x["status"]))
    if response is None:
        return [f"status {x['status']} is not documented"], fits
    content = deref(response).get("content", {})
    kind = (x.get("type") or "").split(";")[0]
    if not content:
        return (["a body that is not documented"] if kind or x["body"] else []), fits
    if kind not in content:
        return [f"type {kind!r} is not documented"], fits
    media = content[kind]
    if kind == "application/json":
        return complaints(media["schema"], x["body"]), fits
    out = []
    items = contents(media["schema"]) if kind == "text/event-stream" else None
    for event in x.get("events") or []:
        out += complaints({"anyOf": items}, event)
    return out, fits


try:
    openapi_spec_validator.OpenAPIV31SpecValidator(document).validate()
    problems = []
except Exception as e:  # each kind of error has a class of its own
    problems = [f"{type(e).__name__}: {e}"[:2000]]
judged = [judge(x) for x in given["exchanges"]]
json.dump({"document": problems, "exchanges": [j[0] for j in judged], "fits": [j[1] for j in judged]}, sys.stdout)
