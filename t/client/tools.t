#!/usr/bin/env python3
"""tools.t - functions that models call, through OpenAI's and Hugging Face's clients and LangChain.

The model is random, so that what is checked is what holds for every answer: the arguments match the schema of the function, streams
put the same calls together as answers, names and numbers are those that were asked for.
"""
import harness

harness.environment("venv")
import json  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import typing  # noqa: E402

import jsonschema  # noqa: E402
import openai  # noqa: E402
from huggingface_hub import InferenceClient  # noqa: E402
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage  # noqa: E402
from langchain_core.tools import tool  # noqa: E402
from langchain_openai import ChatOpenAI  # noqa: E402
from pydantic import BaseModel, Field  # noqa: E402

import tap  # noqa: E402
from harness import equal, raises  # noqa: E402

os.environ["LANGSMITH_TRACING"] = "false"
CONF = """
    llm_model m { weights {root}/t/fixtures/models/qwen3; context 2048; kv_cache 64m f32; threads 1; template tools.jinja; }
    server {
        listen 127.0.0.1:{port};
        location / { llm_pass m; }
    }
"""
TEMPLATE = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content or '' }}{% for call in m.tool_calls or [] %}<tool_call>
{{ call.function | tojson }}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}<|im_start|>assistant
"""
MESSAGES = [{"role": "user", "content": "What is the weather in Rome?"}]
SCHEMAS = {
    "weather": {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {
        "type": "integer", "minimum": 1, "maximum": 5}}, "required": ["city", "days"], "additionalProperties": False},
    "note": {"type": "object", "properties": {"text": {"type": "string", "maxLength": 8}}, "required": ["text"],
             "additionalProperties": False},
}
TOOLS = [{"type": "function", "function": {"name": name, "description": "does " + name, "parameters": schema}}
         for name, schema in SCHEMAS.items()]
SEEDS = range(6)


def client(s):
    return openai.OpenAI(base_url=s.url + "/v1", api_key="unused", timeout=60)


def ask(s, **more):
    return client(s).chat.completions.create(**{"model": "m", "messages": MESSAGES, "tools": TOOLS, "max_tokens": 800,
                                                "parallel_tool_calls": False, **more})


def allowed(name, arguments):
    jsonschema.validate(json.loads(arguments), SCHEMAS[name])


def pairs(calls):
    return [(c.function.name, c.function.arguments) for c in calls]


def put_together(chunks):
    """The calls of a stream: (name, arguments), and the finish reason."""
    calls, reason, ids = {}, None, {}
    for chunk in chunks:
        for call in chunk.choices[0].delta.tool_calls or []:
            name, text = calls.get(call.index, ("", ""))
            calls[call.index] = (name + (call.function.name or ""), text + call.function.arguments)
            ids.setdefault(call.index, set()).update([call.id] if call.id else [])
        reason = chunk.choices[0].finish_reason or reason
    assert all(len(x) == 1 for x in ids.values()), ids
    return [calls[i] for i in sorted(calls)], reason


def test_required(s):
    """openai: required calls, streamed and not"""
    for seed in SEEDS:
        choice = ask(s, tool_choice="required", seed=seed).choices[0]
        calls = choice.message.tool_calls
        equal((choice.finish_reason, len(calls), choice.message.content), ("tool_calls", 1, None))
        allowed(*pairs(calls)[0])
        assert re.fullmatch("[A-Za-z0-9]{9}", calls[0].id), calls[0].id
        equal(put_together(ask(s, tool_choice="required", seed=seed, stream=True)), (pairs(calls), "tool_calls"))


def test_named(s):
    """openai: a named function"""
    for name in SCHEMAS:
        for seed in SEEDS:
            out = ask(s, tool_choice={"type": "function", "function": {"name": name}}, seed=seed)
            equal([c.function.name for c in out.choices[0].message.tool_calls], [name])
            allowed(*pairs(out.choices[0].message.tool_calls)[0])
    e = raises(openai.UnprocessableEntityError, lambda: ask(s, tool_choice={"type": "function", "function": {"name": "x"}}))
    assert "Tool with name x not found" in e.message, e.message


def token(s, text="<tool_call>"):
    """The id of a text that is one token, by default of the one that begins a call."""
    ids = client(s).post("/../tokenize", body={"content": text, "add_special": False}, cast_to=dict)["tokens"]
    equal(len(ids), 1)
    return str(ids[0])


def test_parallel(s):
    """openai: several calls in one answer, streamed and not; the last one is cut by the limit"""
    for seed in SEEDS:
        args = {"tool_choice": "required", "seed": seed, "parallel_tool_calls": True, "max_tokens": 300,
                "logit_bias": {token(s): 100, token(s, "<|im_end|>"): -100, token(s, "<|endoftext|>"): -100}}
        choice = ask(s, **args).choices[0]
        calls = choice.message.tool_calls
        for name, arguments in pairs(calls)[:-1]:
            allowed(name, arguments)
        assert len(calls) > 2, calls
        equal(len({c.id for c in calls}), len(calls), "ids")
        equal(put_together(ask(s, **args, stream=True)), (pairs(calls), choice.finish_reason))


def test_auto(s):
    """openai: auto, made to call by a bias of the token that begins a call; none never calls"""
    bias = {token(s): 100}
    for seed in SEEDS:
        choice = ask(s, seed=seed, logit_bias=bias).choices[0]
        equal((choice.finish_reason, len(choice.message.tool_calls)), ("tool_calls", 1))
        allowed(*pairs(choice.message.tool_calls)[0])
        equal(put_together(ask(s, seed=seed, logit_bias=bias, stream=True)),
              (pairs(choice.message.tool_calls), "tool_calls"))
        free = ask(s, seed=seed, logit_bias={token(s): -100}, max_tokens=20).choices[0]
        equal(free.message.tool_calls, None)
        none = ask(s, seed=seed, logit_bias=bias, tool_choice="none", max_tokens=5).choices[0]
        equal((none.message.tool_calls, none.message.content), (None, "<tool_call>" * 5))


class Weather(BaseModel):
    """The weather of a city."""
    city: typing.Literal["Rome", "Oslo"]
    days: int = Field(ge=1, le=5)


def test_helpers(s):
    """openai: parse() and stream() with a pydantic function"""
    for seed in SEEDS:
        args = {"model": "m", "messages": MESSAGES, "tools": [openai.pydantic_function_tool(Weather)], "tool_choice": "required",
                "max_tokens": 800, "seed": seed, "parallel_tool_calls": False}
        out = client(s).chat.completions.parse(**args)
        parsed = out.choices[0].message.tool_calls[0].function.parsed_arguments
        assert isinstance(parsed, Weather), parsed
        with client(s).chat.completions.stream(**args) as stream:
            kinds = {event.type for event in stream}
            final = stream.get_final_completion()
        assert "tool_calls.function.arguments.done" in kinds, kinds
        equal(final.choices[0].message.tool_calls[0].function.parsed_arguments, parsed)
        equal(final.choices[0].message.role, "assistant")


def test_results(s):
    """openai: calls and their results in a conversation"""
    call = {"id": "abcDEF123", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome", "days": 1}'}}
    messages = MESSAGES + [{"role": "assistant", "content": None, "tool_calls": [call]},
                           {"role": "tool", "tool_call_id": "abcDEF123", "content": "sunny"}]
    out = ask(s, messages=messages, tool_choice="none", max_tokens=4)
    equal(out.usage.completion_tokens, 4)


def test_hub(s):
    """huggingface_hub: tools, streamed and not, by name, with its own tool_prompt"""
    c = InferenceClient(s.url, timeout=60)
    for seed in SEEDS:
        args = {"messages": MESSAGES, "tools": TOOLS, "max_tokens": 800, "seed": seed, "extra_body": {"parallel_tool_calls": False}}
        choice = c.chat_completion(tool_choice="required", **args).choices[0]
        equal((choice.finish_reason, len(choice.message.tool_calls)), ("tool_calls", 1))
        allowed(*pairs(choice.message.tool_calls)[0])
        text = ""
        for chunk in c.chat_completion(tool_choice="required", stream=True, **args):
            for call in chunk.choices[0].delta.tool_calls or []:
                text += call.function.arguments
        equal(text, choice.message.tool_calls[0].function.arguments)
        named = c.chat_completion(tool_choice={"function": {"name": "note"}}, tool_prompt="Call it.", **args).choices[0]
        equal([call.function.name for call in named.message.tool_calls], ["note"])


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


def test_langchain(s):
    """langchain: bind_tools, streamed and not, a round of call and result, with_structured_output by function calling"""
    for seed in SEEDS:
        llm = ChatOpenAI(base_url=s.url + "/v1", api_key="unused", model="m", max_tokens=800, seed=seed, max_retries=0)
        bound = llm.bind_tools([add], tool_choice="required", parallel_tool_calls=False)
        whole = None
        for piece in bound.stream("2 + 2?"):
            whole = piece if whole is None else whole + piece
        out = bound.invoke("2 + 2?")
        if out.response_metadata["finish_reason"] == "length":
            continue    # an integer without an end
        equal([(c["name"], c["args"]) for c in whole.tool_calls], [(c["name"], c["args"]) for c in out.tool_calls])
        equal((len(out.tool_calls), out.tool_calls[0]["name"], out.invalid_tool_calls), (1, "add", []))
        result = add.invoke(out.tool_calls[0])
        assert isinstance(result, ToolMessage), result
        after = llm.bind(max_tokens=4).invoke([HumanMessage("2 + 2?"), out, result])
        assert isinstance(after, AIMessage), after
        answer = llm.with_structured_output(Weather, method="function_calling").invoke("Rome?")
        assert isinstance(answer, Weather), answer


with harness.Server(CONF, {"tools.jinja": TEMPLATE}) as server:
    harness.run(globals(), server)
tap.done_testing()
