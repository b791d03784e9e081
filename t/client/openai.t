#!/usr/bin/env python3
"""openai.t - OpenAI's Python client against the server: completions, chat, streams, errors, retries, models.

References are those of huggingface_hub's cases (hub_cases.py): /plain has a template that writes the first message alone.
"""
import harness

harness.environment("venv")
import threading  # noqa: E402
import typing  # noqa: E402

import openai  # noqa: E402
from pydantic import BaseModel, Field  # noqa: E402

import tap  # noqa: E402
from harness import equal, near, raises  # noqa: E402

FIRST, SPACES, CODE, LETTER = harness.reference("smollm2")
N = len(FIRST["greedy"]["ids"])
TEXT = FIRST["greedy"]["text"]

CONF = """
    llm_model m { weights {root}/t/fixtures/models/smollm2; context 1024; kv_cache 16m f32; threads 1; }
    llm_model plain { weights {root}/t/fixtures/models/smollm2; kv_cache 16m f32; threads 1; template plain.jinja; }
    llm_model full { weights {root}/t/fixtures/models/smollm2; kv_cache 16m f32; threads 1; }
    llm_model code { weights {root}/t/fixtures/models/starcoder2; kv_cache 16m f32; threads 1; }
    server {
        listen 127.0.0.1:{port};
        location / { llm_pass m; }
        location /plain { llm_pass plain; }
        location /code { llm_pass code; }
        location /full { llm_pass full; llm_max_concurrent_requests 1; }
        location /slow { llm_pass full; llm_output_by_lua_block { llm.sleep(0.1) return (...) } }
    }
"""


def client(s, path="", **more):
    return openai.OpenAI(base_url=s.url + path + "/v1", api_key="unused", timeout=60, **more)


def ask(content):
    return [{"role": "user", "content": content}]


def whole(case):
    """The greedy text without an unfinished character at its end, which is not sent."""
    return case["greedy"]["text"].rstrip("\ufffd")


def greedy(s, prompt, **more):
    return client(s).completions.create(**{"model": "m", "prompt": prompt, "max_tokens": N, "temperature": 0, **more})


def chat(s, content=FIRST["prompt"], **more):
    return client(s, "/plain").chat.completions.create(
        **{"model": "m", "messages": ask(content), "max_tokens": N, "temperature": 0, **more})


def test_completion(s):
    """completions: greedy texts of four prompts, as strings and as token ids, alone and together"""
    cases = [FIRST, SPACES, CODE, LETTER]
    for c in cases:
        equal(greedy(s, c["prompt"]).choices[0].text, whole(c))
        equal(greedy(s, c["input_ids"]).choices[0].text, whole(c))
    for prompt in [c["prompt"] for c in cases], [c["input_ids"] for c in cases]:
        out = greedy(s, prompt)
        equal([c.text for c in out.choices], [whole(c) for c in cases])
        equal([c.index for c in out.choices], [0, 1, 2, 3])
        equal(out.usage.prompt_tokens, sum(len(c["input_ids"]) for c in cases))
        equal(out.usage.completion_tokens, 4 * N)


def test_completion_logprobs(s):
    """completions: log-probabilities of prompt and text with echo"""
    for c in FIRST, CODE:
        p = greedy(s, c["prompt"], logprobs=2, echo=True).choices[0]
        near(p.logprobs.token_logprobs, c["prompt_logprobs"] + c["greedy"]["logprobs"])
        equal(p.text, c["prompt"] + whole(c))
        equal(p.logprobs.text_offset[0], 0)
        equal(p.logprobs.top_logprobs[0], None)
        for i, step in enumerate(p.logprobs.top_logprobs[1:], 1):
            assert p.logprobs.token_logprobs[i] in step.values(), i
    score = greedy(s, FIRST["input_ids"], logprobs=1, echo=True, max_tokens=0).choices[0]
    near(score.logprobs.token_logprobs, FIRST["prompt_logprobs"])


def test_completion_stream(s):
    """completions: a stream with usage"""
    chunks = list(greedy(s, FIRST["prompt"], stream=True, stream_options={"include_usage": True}))
    usage = chunks.pop()
    equal((usage.choices, usage.usage.completion_tokens), ([], N))
    equal("".join(c.choices[0].text for c in chunks), TEXT)
    equal([c.choices[0].finish_reason for c in chunks], [None] * (len(chunks) - 1) + ["length"])
    two = list(greedy(s, [FIRST["prompt"], CODE["prompt"]], stream=True))
    equal(["".join(c.choices[0].text for c in two if c.choices[0].index == i) for i in (0, 1)], [TEXT, whole(CODE)])


def test_completion_choices(s):
    """completions: n, best_of, seed, stop, logit_bias"""
    def texts(**more):
        return [c.text for c in greedy(s, FIRST["prompt"], temperature=1, **more).choices]
    two = texts(n=2, seed=5)
    equal(two, texts(n=2, seed=5), "seed")
    equal(two[1], texts(seed=6)[0], "the second choice has the next seed")
    equal(len(texts(n=1, best_of=2)), 1)
    stopped = greedy(s, FIRST["prompt"], stop="ion").choices[0]
    equal((stopped.text, stopped.finish_reason), (TEXT.split("ion")[0], "stop"))
    first = FIRST["greedy"]["ids"][0]
    banned = greedy(s, FIRST["prompt"], max_tokens=1, logprobs=1, logit_bias={str(first): -100}).choices[0]
    near(banned.logprobs.token_logprobs, [FIRST["last_logits"]["top"][1][1] - FIRST["last_logits"]["logsumexp"]])


def test_suffix(s):
    """completions: suffix, for a model with tokens for the middle, is the prompt with these tokens"""
    c = client(s, "/code")
    out = c.completions.create(model="m", prompt="def f(", suffix="):\n", max_tokens=8, temperature=0)
    same = c.completions.create(model="m", prompt="<fim_prefix>def f(<fim_suffix>):\n<fim_middle>", max_tokens=8,
                                temperature=0)
    equal(out.choices[0].text, same.choices[0].text)
    e = raises(openai.UnprocessableEntityError, lambda: greedy(s, "a", suffix="b"))
    assert "Suffix is not supported" in e.message, e.message


def test_chat(s):
    """chat: message, usage, log-probabilities"""
    out = chat(s, logprobs=True, top_logprobs=5)
    c = out.choices[0]
    equal((c.message.role, c.message.content, c.message.tool_calls, c.finish_reason), ("assistant", TEXT, None, "length"))
    equal((out.object, out.usage.prompt_tokens, out.usage.completion_tokens),
          ("chat.completion", len(FIRST["input_ids"]), N))
    near([t.logprob for t in c.logprobs.content], FIRST["greedy"]["logprobs"])
    best = FIRST["last_logits"]["top"][:5]
    near([t.logprob for t in c.logprobs.content[0].top_logprobs],
         [v - FIRST["last_logits"]["logsumexp"] for _, v in best])
    equal(b"".join(bytes(t.bytes) for t in c.logprobs.content).decode("utf-8", "replace"), TEXT, "bytes")
    parts = chat(s, [{"type": "text", "text": FIRST["prompt"][:9]}, {"type": "text", "text": FIRST["prompt"][9:]}])
    equal(parts.choices[0].message.content, TEXT, "parts of a message")


def test_chat_stream(s):
    """chat: a stream, with log-probabilities and usage"""
    chunks = list(chat(s, stream=True, logprobs=True, stream_options={"include_usage": True}))
    usage = chunks.pop()
    equal((usage.choices, usage.usage.completion_tokens), ([], N))
    equal({c.usage for c in chunks}, {None})
    equal("".join(c.choices[0].delta.content for c in chunks), TEXT)
    equal([c.choices[0].delta.role for c in chunks], ["assistant"] + [None] * (len(chunks) - 1))
    equal(chunks[-1].choices[0].finish_reason, "length")
    near([t.logprob for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.content],
         FIRST["greedy"]["logprobs"])


def test_chat_helper(s):
    """chat: the helper .stream() puts the same completion together"""
    with client(s, "/plain").chat.completions.stream(model="m", messages=ask(FIRST["prompt"]), max_tokens=N, temperature=0,
                                                     stream_options={"include_usage": True}) as stream:
        kinds = {event.type for event in stream}
        try:
            final = stream.get_final_completion()
        except openai.LengthFinishReasonError as e:
            final = e.completion
    assert {"chunk", "content.delta"} <= kinds, kinds
    message = final.choices[0].message
    equal((message.role, message.content, final.usage.completion_tokens), ("assistant", TEXT, N))


def test_chat_choices(s):
    """chat: n choices, streamed and not, are those of their seeds"""
    out = chat(s, n=3, seed=11, temperature=1)
    texts = [c.message.content for c in out.choices]
    equal([c.index for c in out.choices], [0, 1, 2])
    equal(texts[2], chat(s, seed=13, temperature=1).choices[0].message.content)
    chunks = list(chat(s, n=3, seed=11, temperature=1, stream=True))
    equal(["".join(c.choices[0].delta.content for c in chunks if c.choices[0].index == i) for i in range(3)], texts)


class Step(BaseModel):
    text: str = Field(max_length=10)
    ok: bool


class Answer(BaseModel):
    kind: typing.Literal["yes", "no"]
    score: int = Field(ge=0, le=9)
    steps: list[Step] = Field(max_length=2)
    note: typing.Optional[typing.Literal["a", "b"]]


def test_parse(s):
    """chat: parse() and stream() with a pydantic class as the response format"""
    for seed in range(8):
        args = {"model": "m", "messages": ask("Answer"), "max_tokens": 600, "seed": seed, "response_format": Answer}
        out = client(s).chat.completions.parse(**args)
        equal(out.choices[0].finish_reason, "stop")
        assert isinstance(out.choices[0].message.parsed, Answer), out
        with client(s).chat.completions.stream(**args) as stream:
            for _ in stream:
                pass
            equal(stream.get_final_completion().choices[0].message.parsed, out.choices[0].message.parsed, "stream")


def test_json_schema(s):
    """completions: response_format; what it cannot do is refused by name"""
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": [1, "two", None]}}}
    equal(greedy(s, "A", extra_body={"response_format": form}).choices[0].text in ("1", '"two"', "null"), True)
    form["json_schema"]["schema"] = {"type": "object", "not": {"required": ["a"]}}
    e = raises(openai.UnprocessableEntityError, lambda: chat(s, response_format=form))
    assert "grammar is not valid" in e.message and "not" in e.message, e.message


def test_continued(s):
    """chat: a last message of the assistant is continued"""
    messages = ask("Hello") + [{"role": "assistant", "content": "The sky"}]
    out = client(s).chat.completions.create(model="m", messages=messages, max_tokens=4, temperature=0)
    prompt = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n" \
        "<|im_start|>assistant\nThe sky"
    equal(out.choices[0].message.content, greedy(s, prompt, max_tokens=4).choices[0].text)


def test_errors(s):
    """errors: typed, with status, message, type and code"""
    e = raises(openai.UnprocessableEntityError, lambda: chat(s, temperature=-1))
    equal((e.status_code, e.type, e.code), (422, "invalid_request_error", "422"))
    assert "`temperature`" in e.message, e.message
    e = raises(openai.UnprocessableEntityError, lambda: list(chat(s, temperature=-1, stream=True)))
    equal(e.status_code, 422, "stream")
    e = raises(openai.UnprocessableEntityError, lambda: greedy(s, "word " * 1000))
    equal(e.code, "context_length_exceeded")
    e = raises(openai.NotFoundError, lambda: client(s).models.retrieve("no-such-model"))
    equal((e.status_code, e.type), (404, "not_found_error"))
    raises(openai.NotFoundError, lambda: client(s).files.list())
    assert e.request_id, "x-request-id"


def test_retries(s):
    """errors: 429 while the only place is taken; the client retries by itself and then succeeds"""
    stream = client(s, "/slow").completions.create(model="m", prompt=FIRST["prompt"], max_tokens=N, stream=True,
                                                   temperature=0)
    iterator = iter(stream)
    next(iterator)
    args = {"model": "m", "prompt": "A", "max_tokens": 1}
    e = raises(openai.RateLimitError, lambda: client(s, "/full", max_retries=0).completions.create(**args))
    equal((e.status_code, e.type, e.code), (429, "rate_limit_error", "429"))
    assert int(e.response.headers["retry-after"]) >= 1
    reader = threading.Thread(target=lambda: list(iterator))
    reader.start()
    raw = client(s, "/full", max_retries=8).completions.with_raw_response.create(**args)
    reader.join()
    equal(raw.parse().usage.completion_tokens, 1)
    assert raw.retries_taken >= 1, raw.retries_taken


def test_models(s):
    """models: list and retrieve"""
    models = client(s).models.list().data
    equal([(m.id, m.object) for m in models], [("m", "model")])
    equal(client(s).models.retrieve("m").id, "m")


def test_embeddings(s):
    """embeddings: in base64 as the client asks by itself, and as numbers; of texts and of token ids"""
    c = client(s)
    texts = [FIRST["prompt"], LETTER["prompt"]]
    out = c.embeddings.create(model="m", input=texts)
    equal(([d.index for d in out.data], out.usage.prompt_tokens),
          ([0, 1], sum(len(x["input_ids"]) for x in (FIRST, LETTER))))
    numbers = c.embeddings.create(model="m", input=texts, encoding_format="float")
    ids = c.embeddings.create(model="m", input=[FIRST["input_ids"], LETTER["input_ids"]])
    for got in numbers, ids:
        for a, b in zip(got.data, out.data):
            near(a.embedding, b.embedding, tolerance=1e-5)
    near([sum(x * x for x in d.embedding) for d in out.data], [1, 1], "length")
    raises(openai.UnprocessableEntityError, lambda: c.embeddings.create(model="m", input=[]))


def test_async(s):
    """many requests at once through the asynchronous client"""
    import asyncio

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=s.url + "/plain/v1", api_key="unused") as c:
            return await asyncio.gather(*[
                c.chat.completions.create(model="m", messages=ask(FIRST["prompt"]), max_tokens=1 + i % N, temperature=0,
                                          logprobs=True) for i in range(40)])
    for i, out in enumerate(asyncio.run(all_of_them())):
        near([t.logprob for t in out.choices[0].logprobs.content], FIRST["greedy"]["logprobs"][:1 + i % N])


with harness.Server(CONF, {"plain.jinja": "{{ messages[0].content }}"}) as server:
    harness.run(globals(), server)
tap.done_testing()
