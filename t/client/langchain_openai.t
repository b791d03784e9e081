#!/usr/bin/env python3
"""langchain_openai.t - ChatOpenAI, OpenAI and their structured output of LangChain against the server."""
import harness

harness.environment("venv")
import asyncio  # noqa: E402
import os  # noqa: E402
import typing  # noqa: E402

from langchain_core.messages import AIMessage, HumanMessage  # noqa: E402
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings  # noqa: E402
from pydantic import BaseModel, Field  # noqa: E402

import tap  # noqa: E402
from harness import equal, near, raises  # noqa: E402

os.environ["LANGSMITH_TRACING"] = "false"
FIRST = harness.reference("smollm2")[0]
N = len(FIRST["greedy"]["ids"])
TEXT = FIRST["greedy"]["text"]

CONF = """
    llm_model m { weights {root}/t/fixtures/models/smollm2; context 1024; kv_cache 16m f32; threads 1; }
    llm_model plain { weights {root}/t/fixtures/models/smollm2; context 1024; kv_cache 16m f32; threads 1; template plain.jinja; }
    server {
        listen 127.0.0.1:{port};
        location / { llm_pass m; }
        location /plain { llm_pass plain; }
    }
"""


def chat(s, path="/plain", **more):
    return ChatOpenAI(base_url=s.url + path + "/v1", api_key="unused", model="m",
                      **{"max_tokens": N, "temperature": 0, "max_retries": 0, **more})


def test_completion(s):
    """OpenAI: invoke, a batch, a stream, a stop string"""
    llm = OpenAI(base_url=s.url + "/v1", api_key="unused", model="m", max_tokens=N, temperature=0)
    equal(llm.invoke(FIRST["prompt"]), TEXT)
    equal(llm.batch([FIRST["prompt"]] * 3), [TEXT] * 3)
    equal("".join(llm.stream(FIRST["prompt"])), TEXT)
    equal(llm.invoke(FIRST["prompt"], stop=["ion"]), TEXT.split("ion")[0])
    equal(llm.generate([FIRST["prompt"]]).llm_output["token_usage"]["completion_tokens"], N)
    sampled = OpenAI(base_url=s.url + "/v1", api_key="unused", model="m", seed=1, n=2, best_of=2)
    equal(len(sampled.generate(["A"]).generations[0]), 2)


def test_chat(s):
    """ChatOpenAI: invoke with log-probabilities and usage"""
    out = chat(s).bind(logprobs=True).invoke(FIRST["prompt"])
    equal((out.content, out.response_metadata["finish_reason"]), (TEXT, "length"))
    near([t["logprob"] for t in out.response_metadata["logprobs"]["content"]], FIRST["greedy"]["logprobs"])
    equal((out.usage_metadata["input_tokens"], out.usage_metadata["output_tokens"]), (len(FIRST["input_ids"]), N))


def test_chat_stream(s):
    """ChatOpenAI: streams, also asynchronous, with usage"""
    whole = None
    for piece in chat(s, stream_usage=True).stream(FIRST["prompt"]):
        whole = piece if whole is None else whole + piece
    equal((whole.content, whole.usage_metadata["output_tokens"]), (TEXT, N))

    async def read():
        return "".join([piece.content async for piece in chat(s).astream(FIRST["prompt"])])
    equal(asyncio.run(read()), TEXT)


def test_history(s):
    """ChatOpenAI: a conversation through the template of the model"""
    out = chat(s, "").invoke([HumanMessage("one"), AIMessage("<think>\nhm\n</think>\n\ntwo"), HumanMessage("three")])
    equal(out.response_metadata["finish_reason"] in ("length", "stop"), True)


class Answer(BaseModel):
    """What the model fills in."""
    kind: typing.Literal["yes", "no"]
    score: int = Field(ge=0, le=9)
    tags: list[typing.Literal["a", "b"]] = Field(max_length=2)


def test_structured(s):
    """ChatOpenAI: with_structured_output of a pydantic class, by its JSON schema"""
    for seed in range(4):
        llm = chat(s, "", max_tokens=150, temperature=1, seed=seed)
        out = llm.with_structured_output(Answer, method="json_schema").invoke("Hello")
        assert isinstance(out, Answer), out


def test_embeddings(s):
    """OpenAIEmbeddings: documents and a query"""
    e = OpenAIEmbeddings(base_url=s.url + "/v1", api_key="unused", model="m", check_embedding_ctx_length=False)
    documents = e.embed_documents(["one", "two", "three"])
    near(e.embed_query("two"), documents[1], tolerance=1e-5)


def test_errors(s):
    """ChatOpenAI: what is refused"""
    e = raises(Exception, lambda: chat(s, temperature=-1).invoke("a"))
    assert "`temperature`" in str(e), str(e)


with harness.Server(CONF, {"plain.jinja": "{{ messages[0].content }}"}) as server:
    harness.run(globals(), server)
tap.done_testing()
