#!/usr/bin/env python3
"""llm_ls.t - the requests of llm-ls (llm.nvim, llm-vscode), byte for byte as its HTTP client writes them.

Backend "tgi": POST /generate with the user's request_body, inputs and parameters; backend "openai": POST /v1/completions. It
reads generated_text, or error as a string, of an object; choices[].text of the other. The language server itself is a
binary that no registry has, so that its bytes are written here.
"""
import harness

harness.environment("venv")
import json  # noqa: E402
import socket  # noqa: E402

import tap  # noqa: E402
from harness import equal  # noqa: E402

CODE = harness.reference("smollm2")[2]
N = len(CODE["greedy"]["ids"])
TEXT = CODE["greedy"]["text"].rstrip("\ufffd")

CONF = """
    llm_model m { weights {root}/t/fixtures/models/smollm2; kv_cache 16m f32; threads 1; }
    llm_model code { weights {root}/t/fixtures/models/starcoder2; kv_cache 16m f32; threads 1; }
    server {
        listen 127.0.0.1:{port};
        llm_default_max_new_tokens 8;
        location / { llm_pass m; }
        location /code/ { llm_pass code; }
    }
"""


def exchange(s, path, body, token=None):
    """Status, headers and the decoded body; the request as reqwest writes it, with lower-case names and its user agent."""
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    head = f"POST {path} HTTP/1.1\r\ncontent-type: application/json\r\n" \
        "user-agent: llm-ls/0.5.3; rust/unknown; ide/neovim/0.10.0\r\n" + \
        (f"authorization: Bearer {token}\r\n" if token else "") + \
        f"accept: */*\r\nhost: 127.0.0.1:{s.port}\r\ncontent-length: {len(data)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", s.port), 60) as c:
        c.sendall(head.encode() + data)
        f = c.makefile("rb")
        status = int(f.readline().split()[1])
        headers = {}
        while (line := f.readline().strip()):
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        got = f.read(int(headers["content-length"])) if "content-length" in headers else chunked(f)
    return status, headers, json.loads(got)


def chunked(f):
    data = b""
    while (size := int(f.readline(), 16)):
        data += f.read(size)
        f.readline()
    return data


def test_tgi(s):
    """tgi: the user's parameters; an object with generated_text, without the prompt"""
    for token in None, "hf_none":
        status, headers, got = exchange(s, "/generate", {
            "parameters": {"max_new_tokens": N, "return_full_text": False}, "inputs": CODE["prompt"]}, token)
        equal((status, headers["content-type"], got), (200, "application/json", {"generated_text": TEXT}))


def test_nested(s):
    """tgi: without parameters of the user it sends them one level too deep; the answer is greedy all the same"""
    body = {"parameters": {"parameters": {"return_full_text": False}}, "inputs": CODE["prompt"]}
    status, _, got = exchange(s, "/generate", body)
    equal((status, list(got)), (200, ["generated_text"]))
    assert TEXT.startswith(got["generated_text"]) and got["generated_text"], got


def test_fim(s):
    """tgi: fill in the middle by special tokens in the text, as they are for /v1/completions with a suffix"""
    inputs = "<fim_prefix>def add(a, b):\n    return <fim_suffix>\n\n\nprint(add(1, 2))\n<fim_middle>"
    body = {"parameters": {"max_new_tokens": 8, "stop": ["<|endoftext|>"], "return_full_text": False}, "inputs": inputs}
    status, _, got = exchange(s, "/code/generate", body)
    equal(status, 200)
    status, _, same = exchange(s, "/code/v1/completions", {
        "prompt": "def add(a, b):\n    return ", "suffix": "\n\n\nprint(add(1, 2))\n", "max_tokens": 8, "temperature": 0,
        "model": "code", "stream": False})
    equal((status, same["choices"][0]["text"]), (200, got["generated_text"]))


def test_openai(s):
    """openai: choices[].text"""
    body = {"max_tokens": N, "temperature": 0.0, "model": "m", "prompt": CODE["prompt"], "stream": False}
    status, _, got = exchange(s, "/v1/completions", body, "sk-none")
    equal((status, [c["text"] for c in got["choices"]]), (200, [TEXT]))


def test_error(s):
    """tgi: an error is an object with a string"""
    body = {"parameters": {"max_new_tokens": 5, "top_p": 2.0, "return_full_text": False}, "inputs": CODE["prompt"]}
    status, _, got = exchange(s, "/generate", body)
    equal((status, got), (422, {"error": "Input validation error: `top_p` must be > 0.0 and < 1.0",
                                "error_type": "validation"}))


with harness.Server(CONF) as server:
    harness.run(globals(), server)
tap.done_testing()
