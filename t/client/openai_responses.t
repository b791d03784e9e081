#!/usr/bin/env python3
"""openai_responses.t - the Responses API through OpenAI's Python client: texts, streams, parsed output, calls of functions.

The greedy text is that of hub_cases.py's references: /plain has a template that writes the first message alone.
"""
import harness

harness.environment("venv")
import json  # noqa: E402
import typing  # noqa: E402

import openai  # noqa: E402
from pydantic import BaseModel, Field  # noqa: E402

import tap  # noqa: E402
from harness import equal, raises  # noqa: E402

FIRST = harness.reference("smollm2")[0]
N = len(FIRST["greedy"]["ids"])
TEXT = FIRST["greedy"]["text"].rstrip("\ufffd")

CONF = """
    llm_model m { weights {root}/t/fixtures/models/smollm2; context 2048; kv_cache 32m f32; threads 1; }
    llm_model plain { weights {root}/t/fixtures/models/smollm2; kv_cache 16m f32; threads 1; template plain.jinja; }
    server {
        listen 127.0.0.1:{port};
        location / { llm_pass m; }
        location /plain { llm_pass plain; }
        location /short { llm_pass m; llm_generation_timeout 300ms; llm_output_by_lua_block { llm.sleep(0.1) return ... } }
    }
"""

TOOL = {"type": "function", "name": "weather", "description": "of a city", "strict": True,
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}},
                       "required": ["city"], "additionalProperties": False}}


class Answer(BaseModel):
    good: bool
    kind: typing.Literal["a", "b"] = Field()


def client(s, path=""):
    return openai.OpenAI(base_url=s.url + path + "/v1", api_key="unused", timeout=60)


def test_text(s):
    """create: the reference's greedy text"""
    r = client(s, "/plain").responses.create(model="m", input=FIRST["prompt"], temperature=0, max_output_tokens=N)
    equal(r.output_text, TEXT)
    equal((r.status, r.incomplete_details.reason), ("incomplete", "max_output_tokens"))
    equal(r.usage.output_tokens, N)
    equal(r.usage.total_tokens, r.usage.input_tokens + N)


def test_events(s):
    """create with stream: the same text in deltas, numbered events"""
    events = list(client(s, "/plain").responses.create(model="m", input=[{"role": "user", "content": FIRST["prompt"]}],
                                                       temperature=0, max_output_tokens=N, stream=True))
    equal([e.sequence_number for e in events], list(range(len(events))))
    equal("".join(e.delta for e in events if e.type == "response.output_text.delta"), TEXT)
    equal(events[-1].type, "response.incomplete")
    equal(events[-1].response.output_text, TEXT)


def test_stream_helper(s):
    """stream(): the helper collects the same response"""
    with client(s).responses.stream(model="m", input="x", text_format=Answer) as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        final = stream.get_final_response()
    equal(final.output_text, text)
    equal(final.output_parsed, Answer.model_validate_json(text))


def test_parse(s):
    """parse(): an answer of the type"""
    r = client(s).responses.parse(model="m", input="Is it good?", text_format=Answer)
    equal(type(r.output_parsed), Answer)


def test_calls(s):
    """a call, and its result sent back"""
    c = client(s)
    first = c.responses.create(model="m", input="Weather?", tools=[TOOL], tool_choice="required")
    calls = [o for o in first.output if o.type == "function_call"]
    equal([o.name for o in calls][:1], ["weather"])
    equal(json.loads(calls[0].arguments)["city"] in ("Rome", "Oslo"), True)
    items = [{"role": "user", "content": "Weather?"}, *first.output]
    items += [{"type": "function_call_output", "call_id": o.call_id, "output": "sun"} for o in calls]
    equal(c.responses.create(model="m", input=items, tools=[TOOL], tool_choice="none", max_output_tokens=4).output[-1].type, "message")


def test_call_events(s):
    """a named call in events"""
    events = list(client(s).responses.create(model="m", input="Weather?", tools=[TOOL], stream=True,
                                             tool_choice={"type": "function", "name": "weather"}))
    done = [e for e in events if e.type == "response.function_call_arguments.done"]
    deltas = "".join(e.delta for e in events if e.type == "response.function_call_arguments.delta")
    equal(deltas, done[0].arguments)
    equal(events[-1].response.output[0].arguments, deltas)


def test_error_event(s):
    """an error in the middle of a stream is raised"""
    seen = []

    def read():
        for event in client(s, "/short").responses.create(model="m", input="x", stream=True, extra_body={"ignore_eos": True}):
            seen.append(event.type)

    e = raises(openai.APIError, read)
    equal("Request failed during generation" in e.message, True)
    equal(seen[0], "response.created")


def test_refused(s):
    """what is not stored is refused"""
    e = raises(openai.UnprocessableEntityError, lambda: client(s).responses.create(model="m", input="a", previous_response_id="resp_1"))
    equal("previous_response_id" in str(e), True)


with harness.Server(CONF, {"plain.jinja": "{{ messages[0].content }}"}) as server:
    harness.run(globals(), server)
tap.done_testing()
