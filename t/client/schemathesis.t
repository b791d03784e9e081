#!/usr/bin/env python3
"""schemathesis.t - schemathesis against the server's own OpenAPI document: no 5xx, no answer that the document does not describe."""
import harness

harness.environment("venv")
import json  # noqa: E402
import os  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402

import tap  # noqa: E402

SECONDS = 300 if harness.LONG else 20    # of one run, which goes on with new examples until then

# "unsupported_method" is left out: nginx itself refuses TRACE, without the header Allow
CHECKS = ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
          "response_schema_conformance"]

# short texts: what is tested is the form of requests and answers
CONF = """
    llm_model m { weights {root}/t/fixtures/gguf/smollm2-Q4_1.gguf; context 128; kv_cache 16m; threads 1; }
    server {
        listen 127.0.0.1:{port};
        llm_default_max_new_tokens 4;
        llm_max_total_tokens 128;
        location / { llm_pass m; }
        location /tgi/ { llm_pass m; llm_error_format tgi; llm_stream_errors event; llm_max_client_batch_size 2; }
    }
"""


def judge(s, path, seed, seconds):
    """Runs schemathesis on the document below path; what it found is diagnosed."""
    report = os.path.join(s.dir, "report.json")
    p = subprocess.run(
        [os.path.join(sys.prefix, "bin", "schemathesis"), "run", s.url + path + "/openapi.json", "--url", s.url + path,
         "--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--max-time", str(seconds),
         "--workers", "1", "--seed", str(seed), "--suppress-health-check", "all", "--request-timeout", "60", "--warnings", "off",
         "--report", "json", "--report-json-path", report],
        cwd=s.dir, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with open(report, encoding="utf-8") as f:
        operations = json.load(f)["operations"]
    if not tap.ok(p.returncode == 0,
                  f"{path or '/'}: {operations['tested']} operations answer as their document says"):
        tap.diag(p.stdout[-8000:])
    tap.is_(operations["tested"], operations["selected"], "all of them were tested")


with harness.Server(CONF) as server:
    for number, path in enumerate(("", "/tgi")):
        judge(server, path, number, SECONDS)
tap.done_testing()
