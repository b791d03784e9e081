#!/usr/bin/env python3
"""hub_before_1.t - huggingface_hub, the last release before 1.0, against the server: hub_cases.py."""
import harness

harness.environment("venv-tgi")
import hub_cases  # noqa: E402
import tap  # noqa: E402

with harness.Server(hub_cases.CONF, hub_cases.FILES) as s:
    harness.run(vars(hub_cases), s)
tap.done_testing()
