#!/usr/bin/env python3
"""javascript.t - the clients of OpenAI and Hugging Face for JavaScript against the server: openai.js, inference.js."""
import harness

harness.environment("venv")
import tap  # noqa: E402

CONF = """
    llm_model m { weights {root}/t/fixtures/models/smollm2; context 1024; kv_cache 16m f32; threads 1; }
    llm_model plain { weights {root}/t/fixtures/models/smollm2; kv_cache 16m f32; threads 1; template plain.jinja; }
    server {
        listen 127.0.0.1:{port};
        location / { llm_pass m; }
        location /plain { llm_pass plain; }
        location /slow { llm_pass plain; llm_output_by_lua_block { llm.sleep(0.1) return (...) } }
    }
"""

with harness.Server(CONF, {"plain.jinja": "{{ messages[0].content }}"}) as s:
    s.node("openai.js")
    s.node("inference.js")
tap.done_testing()
