#!/usr/bin/env python3
"""text_generation.t - TGI's own Python client against the server: generate, streams, chat, typed errors, asyncio."""
import harness

harness.environment("venv-tgi")
import asyncio  # noqa: E402
import re  # noqa: E402

from text_generation import AsyncClient, Client  # noqa: E402
from text_generation.errors import OverloadedError, ValidationError  # noqa: E402
from text_generation.types import FinishReason, Grammar, GrammarType, Message  # noqa: E402

import tap  # noqa: E402
from harness import equal, near, raises  # noqa: E402

FIRST = harness.reference("smollm2")[0]
N = len(FIRST["greedy"]["ids"])
TEXT = FIRST["greedy"]["text"]
BEST = FIRST["last_logits"]["top"][:3]

CONF = """
    llm_model m { weights {root}/t/fixtures/models/smollm2; kv_cache 16m f32; threads 1; }
    llm_model plain { weights {root}/t/fixtures/models/smollm2; kv_cache 16m f32; threads 1; template plain.jinja; }
    server {
        listen 127.0.0.1:{port};
        location / { llm_pass m; }
        location /plain { llm_pass plain; }
        location /full { llm_pass plain; llm_max_concurrent_requests 1; }
        location /slow { llm_pass plain; llm_output_by_lua_block { llm.sleep(0.1) return (...) } }
    }
"""


def client(s, path=""):
    return Client(s.url + path, timeout=60)


def same_tokens(tokens):
    equal([t.id for t in tokens], FIRST["greedy"]["ids"])
    near([t.logprob for t in tokens], FIRST["greedy"]["logprobs"])


def test_generate(s):
    """generate: text, tokens, the prompt's log-probabilities, alternatives"""
    out = client(s).generate(FIRST["prompt"], max_new_tokens=N, decoder_input_details=True, top_n_tokens=3)
    d = out.details
    equal((out.generated_text, d.finish_reason, d.generated_tokens, d.seed), (TEXT, FinishReason.Length, N, None))
    same_tokens(d.tokens)
    equal([t.id for t in d.prefill], FIRST["input_ids"])
    near([t.logprob for t in d.prefill], FIRST["prompt_logprobs"])
    equal([t.id for t in d.top_tokens[0]], [i for i, _ in BEST])


def test_sampling(s):
    """generate: every sampling parameter at once, twice the same with one seed"""
    def sample():
        return client(s).generate(
            FIRST["prompt"], do_sample=True, max_new_tokens=N, repetition_penalty=1.2, frequency_penalty=0.1, seed=4,
            temperature=0.7, top_k=40, top_p=0.9, typical_p=0.9, truncate=10, watermark=True, return_full_text=True)
    one, two = sample(), sample()
    equal(one, two)
    equal(one.details.seed, 4)
    assert one.generated_text.startswith(FIRST["prompt"])


def test_stop(s):
    """generate: stop_sequences, and best_of"""
    out = client(s).generate(FIRST["prompt"], max_new_tokens=N, stop_sequences=["ion"])
    equal((out.generated_text, out.details.finish_reason), (TEXT[:TEXT.index("ion") + 3], FinishReason.StopSequence))
    out = client(s).generate(FIRST["prompt"], max_new_tokens=8, best_of=2, do_sample=True)
    equal(len(out.details.best_of_sequences), 1)


def test_grammar(s):
    """generate: a regular expression as the grammar"""
    pattern = "[a-f]{3}-\\d{2}"
    out = client(s).generate("A", max_new_tokens=60, grammar=Grammar(type=GrammarType.Regex, value=pattern))
    assert re.fullmatch(pattern, out.generated_text), out.generated_text
    equal(out.details.finish_reason, FinishReason.EndOfSequenceToken)


def test_stream(s):
    """generate_stream: an event a token, the last with text and details"""
    events = list(client(s).generate_stream(FIRST["prompt"], max_new_tokens=N, top_n_tokens=3))
    same_tokens([e.token for e in events])
    equal([e.generated_text for e in events], [None] * (N - 1) + [TEXT])
    equal((events[-1].details.finish_reason, events[-1].details.generated_tokens), (FinishReason.Length, N))
    equal([t.id for t in events[0].top_tokens], [i for i, _ in BEST])


def test_chat(s):
    """chat: content and usage"""
    out = client(s, "/plain").chat([Message(role="user", content=FIRST["prompt"])], max_tokens=N, temperature=0.0)
    equal((out.choices[0].message.content, out.choices[0].finish_reason), (TEXT, "length"))
    equal((out.usage["prompt_tokens"], out.usage["completion_tokens"]), (len(FIRST["input_ids"]), N))


def test_errors(s):
    """errors: ValidationError and OverloadedError, streamed or not"""
    long = "word " * 1000
    e = raises(ValidationError, lambda: client(s).generate(long))
    assert "must be <= 256" in str(e), str(e)
    raises(ValidationError, lambda: list(client(s).generate_stream(long)))
    raises(ValidationError, lambda: client(s).generate("a", stop_sequences=["x"] * 17))
    stream = client(s, "/slow").generate_stream(FIRST["prompt"], max_new_tokens=20)
    next(stream)
    raises(OverloadedError, lambda: client(s, "/full").generate("a"))
    raises(OverloadedError, lambda: list(client(s, "/full").generate_stream("a")))
    for _ in stream:
        pass


def test_async(s):
    """asyncio: many requests and streams at once"""
    async def one(i):
        c = AsyncClient(s.url, timeout=60)
        if i % 2:
            return [t.id for t in (await c.generate(FIRST["prompt"], max_new_tokens=N)).details.tokens]
        return [e.token.id async for e in c.generate_stream(FIRST["prompt"], max_new_tokens=N)]

    async def all_of_them():
        return await asyncio.gather(*[one(i) for i in range(20)])
    equal(asyncio.run(all_of_them()), [FIRST["greedy"]["ids"]] * 20)


with harness.Server(CONF, {"plain.jinja": "{{ messages[0].content }}"}) as server:
    harness.run(globals(), server)
tap.done_testing()
