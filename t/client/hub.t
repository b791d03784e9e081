#!/usr/bin/env python3
"""hub.t - huggingface_hub, the current release, against the server: hub_cases.py."""
import harness

harness.environment("venv")
import hub_cases  # noqa: E402
import tap  # noqa: E402

with harness.Server(hub_cases.CONF, hub_cases.FILES) as s:
    harness.run(vars(hub_cases), s)
tap.done_testing()
