#!/usr/bin/env python3
"""langchain_huggingface.t - HuggingFaceEndpoint and ChatHuggingFace of LangChain against the server."""
import harness

harness.environment("venv-tgi")
import asyncio  # noqa: E402
import typing  # noqa: E402

from langchain_core.messages import HumanMessage, SystemMessage  # noqa: E402
from langchain_core.output_parsers import StrOutputParser  # noqa: E402
from langchain_core.prompts import PromptTemplate  # noqa: E402
from langchain_core.tools import tool  # noqa: E402
from langchain_huggingface import ChatHuggingFace, HuggingFaceEndpoint  # noqa: E402

import tap  # noqa: E402
from harness import equal  # noqa: E402

FIRST = harness.reference("smollm2")[0]
N = len(FIRST["greedy"]["ids"])
TEXT = FIRST["greedy"]["text"]

CONF = """
    llm_model m { weights {root}/t/fixtures/models/smollm2; kv_cache 16m f32; threads 1; }
    llm_model plain { weights {root}/t/fixtures/models/smollm2; kv_cache 16m f32; threads 1; template plain.jinja; }
    llm_model long { weights {root}/t/fixtures/models/smollm2; context 1024; kv_cache 16m f32; threads 1; }
    server {
        listen 127.0.0.1:{port};
        location / { llm_pass m; }
        location /plain { llm_pass plain; }
        location /long { llm_pass long; }
    }
"""


def endpoint(s, path="", **more):
    """One whose parameters leave a single candidate at each step, since its defaults sample."""
    return HuggingFaceEndpoint(endpoint_url=s.url + path, **{"max_new_tokens": N, "top_k": 1, **more})


def test_invoke(s):
    """HuggingFaceEndpoint: invoke, with the greedy text of the reference"""
    equal(endpoint(s).invoke(FIRST["prompt"]), TEXT)


def test_defaults(s):
    """HuggingFaceEndpoint: its own defaults, a seed, two prompts at once"""
    llm = HuggingFaceEndpoint(endpoint_url=s.url, seed=3, max_new_tokens=N)
    equal(llm.invoke(FIRST["prompt"]), llm.invoke(FIRST["prompt"]))
    equal(len(llm.batch(["one", "two"])), 2)


def test_stop(s):
    """HuggingFaceEndpoint: a stop string is cut off"""
    equal(endpoint(s, stop_sequences=["ion"]).invoke(FIRST["prompt"]), TEXT.split("ion")[0])
    equal(endpoint(s).invoke(FIRST["prompt"], stop=["ion"]), TEXT.split("ion")[0])


def test_stream(s):
    """HuggingFaceEndpoint: a stream, also asynchronous, and in a chain"""
    llm = endpoint(s, streaming=True)
    equal("".join(llm.stream(FIRST["prompt"])), TEXT)

    async def read():
        return [piece async for piece in llm.astream(FIRST["prompt"])]
    equal("".join(asyncio.run(read())), TEXT)
    chain = PromptTemplate.from_template("The quick brown {animal} jumps over the lazy dog.") | llm | StrOutputParser()
    equal("".join(chain.stream({"animal": "fox"})), TEXT)


def chat(s, path=""):
    """Greedy by its calls: a temperature of 0 in the constructor counts as none there."""
    return ChatHuggingFace(llm=endpoint(s, path), model_id="m", max_tokens=N).bind(temperature=0)


def test_chat(s):
    """ChatHuggingFace: invoke, usage and finish reason"""
    out = chat(s, "/plain").invoke([HumanMessage(FIRST["prompt"])])
    equal(out.content, TEXT)
    equal(out.response_metadata["finish_reason"], "length")
    equal((out.usage_metadata["input_tokens"], out.usage_metadata["output_tokens"]), (len(FIRST["input_ids"]), N))
    rendered = chat(s).invoke([SystemMessage("You are a helpful assistant."), HumanMessage("Hello, who are you?")])
    equal(rendered.usage_metadata["input_tokens"], 55)    # as the reference renders these messages


def test_chat_stream(s):
    """ChatHuggingFace: a stream"""
    pieces = list(chat(s, "/plain").stream([HumanMessage(FIRST["prompt"])]))
    equal("".join(p.content for p in pieces), TEXT)


@tool
def pick(number: typing.Literal[1, 2, 3]) -> str:
    """Picks a number."""
    return str(number)


def test_tools(s):
    """ChatHuggingFace: bind_tools"""
    for seed in range(4):
        llm = ChatHuggingFace(llm=endpoint(s, "/long"), model_id="m", max_tokens=400, seed=seed)
        out = llm.bind_tools([pick], tool_choice="required").invoke("One?")
        equal([c["name"] for c in out.tool_calls], ["pick"])
        assert out.tool_calls[0]["args"]["number"] in (1, 2, 3), out.tool_calls


with harness.Server(CONF, {"plain.jinja": "{{ messages[0].content }}"}) as server:
    harness.run(globals(), server)
tap.done_testing()
