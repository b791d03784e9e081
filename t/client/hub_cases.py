"""hub_cases.py - what huggingface_hub's InferenceClient must get from our server; hub.t and hub_before_1.t run it.

Texts, tokens and log-probabilities are compared with those that transformers computed for the checkpoint smollm2 of
t/fixtures/models. The chat template of /plain writes the first message and nothing else, so that the same references
hold for chat completions.
"""
import json
import re

import harness
from harness import equal, near, raises
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError, OverloadedError, ValidationError

FIRST, SPACES, CODE, LETTER = harness.reference("smollm2")
N = len(FIRST["greedy"]["ids"])

CONF = """
    llm_model m { weights {root}/t/fixtures/models/smollm2; kv_cache 16m f32; threads 1; }
    llm_model plain { weights {root}/t/fixtures/models/smollm2; kv_cache 16m f32; threads 1; template plain.jinja; }
    llm_model full { weights {root}/t/fixtures/models/smollm2; kv_cache 16m f32; threads 1; }
    server {
        listen 127.0.0.1:{port};
        location / { llm_pass m; }
        location /plain { llm_pass plain; }
        location /full { llm_pass full; llm_max_concurrent_requests 1; }
        location /slow { llm_pass full; llm_output_by_lua_block { llm.sleep(0.1) return (...) } }
    }
"""
FILES = {"plain.jinja": "{{ messages[0].content }}"}


CLIENTS = {}


def client(s, path=""):
    """A client that stays: one that is collected closes its streams."""
    return CLIENTS.setdefault(path, InferenceClient(s.url + path, timeout=60))


def ask(content):
    return [{"role": "user", "content": content}]


def text_of(case):
    """The greedy text; an unfinished character at its end is not sent."""
    return case["greedy"]["text"].rstrip("\ufffd")


def same_tokens(tokens, want, n=N):
    """Ids and log-probabilities of a list of tokens are the greedy ones."""
    equal([t.id for t in tokens], want["greedy"]["ids"][:n], "ids")
    near([t.logprob for t in tokens], want["greedy"]["logprobs"][:n], "logprobs")


def test_text(s):
    """text_generation: greedy texts of four prompts"""
    for case in FIRST, SPACES, CODE, LETTER:
        text = client(s).text_generation(case["prompt"], max_new_tokens=N, return_full_text=False)
        equal(text, text_of(case), case["prompt"])


def test_full_text(s):
    """text_generation: prompt and text unless it says otherwise"""
    text = client(s).text_generation(FIRST["prompt"], max_new_tokens=N)
    equal(text, FIRST["prompt"] + text_of(FIRST))


def test_details(s):
    """text_generation: details with the tokens and log-probabilities of the reference"""
    for case in FIRST, SPACES, CODE, LETTER:
        out = client(s).text_generation(case["prompt"], max_new_tokens=N, details=True, return_full_text=False)
        same_tokens(out.details.tokens, case)
        d = out.details
        equal("".join(t.text for t in d.tokens if not t.special), out.generated_text, "texts of the tokens")
        equal((d.finish_reason, d.generated_tokens, d.seed, d.prefill), ("length", N, None, []))


def test_prefill(s):
    """text_generation: decoder_input_details with the prompt's log-probabilities"""
    for case in FIRST, SPACES, CODE, LETTER:
        out = client(s).text_generation(case["prompt"], max_new_tokens=1, decoder_input_details=True, details=True)
        equal([t.id for t in out.details.prefill], case["input_ids"], "ids")
        near([t.logprob for t in out.details.prefill], case["prompt_logprobs"], "logprobs")


def test_stream(s):
    """text_generation: a stream of texts, and of objects with details"""
    texts = list(client(s).text_generation(FIRST["prompt"], max_new_tokens=N, stream=True))
    equal(len(texts), N, "one item a token")
    equal("".join(texts), text_of(FIRST))
    events = list(client(s).text_generation(FIRST["prompt"], max_new_tokens=N, stream=True, details=True,
                                            return_full_text=False))
    same_tokens([e.token for e in events], FIRST)
    equal([e.index for e in events], list(range(1, N + 1)), "index")
    equal([e.generated_text for e in events], [None] * (N - 1) + [text_of(FIRST)], "generated_text")
    equal([e.details is None for e in events], [True] * (N - 1) + [False], "details")
    last = events[-1].details
    equal((last.finish_reason, last.generated_tokens, last.input_length), ("length", N, len(FIRST["input_ids"])))


def test_stop(s):
    """text_generation: a stop string ends the text after it"""
    stop = "ion (0"
    want = text_of(FIRST)
    want = want[:want.index(stop) + len(stop)]
    out = client(s).text_generation(FIRST["prompt"], max_new_tokens=N, stop=[stop, "never"], details=True,
                                    return_full_text=False)
    equal((out.generated_text, out.details.finish_reason), (want, "stop_sequence"))
    same_tokens(out.details.tokens, FIRST, out.details.generated_tokens)
    events = list(client(s).text_generation(FIRST["prompt"], max_new_tokens=N, stop=[stop], stream=True, details=True,
                                            return_full_text=False))
    equal((events[-1].generated_text, events[-1].details.finish_reason), (want, "stop_sequence"), "stream")


def test_seed(s):
    """text_generation: the same seed gives the same text, another one another; details tell it"""
    def sample(seed):
        return client(s).text_generation(FIRST["prompt"], max_new_tokens=N, do_sample=True, seed=seed, details=True)
    one, again, other = sample(7), sample(7), sample(8)
    equal(one.generated_text, again.generated_text)
    equal((one.details.seed, other.details.seed), (7, 8))
    assert one.generated_text != other.generated_text


def test_top_tokens(s):
    """text_generation: top_n_tokens of the first step are the best of the reference's logits"""
    best = FIRST["last_logits"]["top"][:5]
    out = client(s).text_generation(FIRST["prompt"], max_new_tokens=2, top_n_tokens=5, details=True)
    equal([len(x) for x in out.details.top_tokens], [5, 5])
    first = out.details.top_tokens[0]    # plain dicts: the client reads no lists of lists
    equal([t["id"] for t in first], [i for i, _ in best])
    near([t["logprob"] for t in first], [v - FIRST["last_logits"]["logsumexp"] for _, v in best])
    events = list(client(s).text_generation(FIRST["prompt"], max_new_tokens=2, top_n_tokens=5, details=True, stream=True))
    equal([t.id for t in events[0].top_tokens], [i for i, _ in best], "stream")


def test_truncate(s):
    """text_generation: truncate keeps the last tokens"""
    out = client(s).text_generation(FIRST["prompt"], max_new_tokens=1, truncate=5, details=True,
                                    decoder_input_details=True)
    equal([t.id for t in out.details.prefill], FIRST["input_ids"][-5:])


def test_best_of(s):
    """text_generation: best_of two, the better one first"""
    out = client(s).text_generation(FIRST["prompt"], max_new_tokens=8, best_of=2, do_sample=True, details=True)

    def mean(x):
        return sum(t.logprob for t in x.tokens) / x.generated_tokens
    equal(len(out.details.best_of_sequences), 1)
    assert mean(out.details) >= mean(out.details.best_of_sequences[0])


SCHEMA = {"type": "object", "properties": {"kind": {"enum": ["yes", "no"]}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
          "required": ["kind", "n"]}


def follows(text):
    """The text is JSON that SCHEMA allows."""
    value = json.loads(text)
    assert set(value) == {"kind", "n"} and value["kind"] in ("yes", "no") and value["n"] in range(10), text


def test_grammar(s):
    """text_generation: grammars, a JSON schema and a regular expression, streamed and not"""
    for seed in range(4):
        args = {"max_new_tokens": 100, "do_sample": True, "seed": seed, "return_full_text": False}
        for value in SCHEMA, json.dumps(SCHEMA):
            follows(client(s).text_generation("A", grammar={"type": "json", "value": value}, **args))
        regex = {"type": "regex", "value": "[a-f]{3}-\\d{2}"}
        events = list(client(s).text_generation("A", grammar=regex, stream=True, details=True, **args))
        text = "".join(e.token.text for e in events if not e.token.special)
        assert re.fullmatch("[a-f]{3}-\\d{2}", text), text
    e = raises(ValidationError, lambda: client(s).text_generation("A", grammar={"type": "regex", "value": "("}))
    assert "grammar is not valid" in str(e), str(e)


def test_validation(s):
    """text_generation: what is refused is a ValidationError with TGI's text"""
    for parameters, want in [
        ({"temperature": 0.0}, "`temperature` must be strictly positive"),
        ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ({"top_k": 0}, "`top_k` must be strictly positive"),
        ({"truncate": 1000}, "`truncate` must be strictly positive and less than 255. Given: 1000"),
    ]:
        for stream in False, True:
            e = raises(ValidationError, lambda: list(client(s).text_generation("A", stream=stream, **parameters)))
            assert want in str(e), f"{e} does not contain {want}"
    e = raises(ValidationError, lambda: client(s).text_generation("", max_new_tokens=1))
    assert "`inputs` cannot be empty" in str(e), str(e)


def test_overloaded(s):
    """text_generation: OverloadedError while another request has the only place"""
    stream = client(s, "/slow").text_generation("A", max_new_tokens=20, stream=True)
    next(stream)
    raises(OverloadedError, lambda: client(s, "/full").text_generation("A", max_new_tokens=1))
    for _ in stream:
        pass
    client(s, "/full").text_generation("A", max_new_tokens=1)


def test_info(s):
    """health, info and models through the client's own session"""
    c = InferenceClient(s.url, provider="hf-inference")
    equal(c.health_check(), True)
    info = c.get_endpoint_info()
    equal((info["model_id"], info["max_total_tokens"], info["max_input_tokens"]), ("m", 256, 255))


def test_chat(s):
    """chat_completion: content, usage and finish reason"""
    out = client(s, "/plain").chat_completion(ask(FIRST["prompt"]), max_tokens=N, temperature=0)
    choice = out.choices[0]
    equal((choice.message.role, choice.message.content, choice.finish_reason),
          ("assistant", text_of(FIRST), "length"))
    prompt = len(FIRST["input_ids"])
    equal((out.usage.prompt_tokens, out.usage.completion_tokens, out.usage.total_tokens), (prompt, N, prompt + N))


def test_chat_logprobs(s):
    """chat_completion: log-probabilities and alternatives of the reference"""
    out = client(s, "/plain").chat_completion(ask(FIRST["prompt"]), max_tokens=N, temperature=0, logprobs=True,
                                              top_logprobs=3)
    content = out.choices[0].logprobs.content
    near([t.logprob for t in content], FIRST["greedy"]["logprobs"])
    best = FIRST["last_logits"]["top"][:3]
    near([t.logprob for t in content[0].top_logprobs], [v - FIRST["last_logits"]["logsumexp"] for _, v in best])
    equal([len(t.top_logprobs) for t in content], [3] * N)


def test_chat_stream(s):
    """chat_completion: a stream, its last chunks with finish reason and usage"""
    chunks = list(client(s, "/plain").chat_completion(ask(FIRST["prompt"]), max_tokens=N, temperature=0, stream=True,
                                                      stream_options={"include_usage": True}))
    usage = chunks.pop()
    equal((usage.choices, usage.usage.completion_tokens), ([], N))
    equal("".join(c.choices[0].delta.content for c in chunks), text_of(FIRST))
    equal([c.choices[0].finish_reason for c in chunks], [None] * (len(chunks) - 1) + ["length"])
    equal(len({c.id for c in chunks}), 1, "one id")


def test_chat_template(s):
    """chat_completion: the template of the model, read by base_url too"""
    with_url = InferenceClient(base_url=s.url + "/v1", api_key="none").chat_completion(
        ask("Hello, who are you?"), max_tokens=4, temperature=0)
    equal(with_url.usage.prompt_tokens, 55, "tokens of the rendered fixture")
    out = client(s).chat_completion(ask("Hello, who are you?"), max_tokens=4, temperature=0)
    equal(out.choices[0].message.content, with_url.choices[0].message.content)


def test_chat_stop(s):
    """chat_completion: a stop string is cut off"""
    out = client(s, "/plain").chat_completion(ask(FIRST["prompt"]), max_tokens=N, temperature=0, stop=["ion"])
    equal((out.choices[0].message.content, out.choices[0].finish_reason),
          (text_of(FIRST).split("ion")[0], "stop"))


def test_chat_format(s):
    """chat_completion: response_format as JSON schema, in the two forms that the client makes of it"""
    for seed in range(4):
        for form in ({"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}},
                     {"type": "json_object", "value": SCHEMA}, {"type": "json", "value": SCHEMA}):
            out = client(s).chat_completion(ask("Answer"), max_tokens=100, seed=seed, response_format=form)
            follows(out.choices[0].message.content)
            equal(out.choices[0].finish_reason, "stop")


def test_chat_validation(s):
    """chat_completion: what is refused is an error with status 422 and our text"""
    for path in "", "/plain":
        e = raises(HfHubHTTPError, lambda: client(s, path).chat_completion(ask("a"), temperature=-1))
        equal(e.response.status_code, 422)
        assert "`temperature`" in str(e), str(e)
