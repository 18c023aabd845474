#!/usr/bin/env bash
# inspect's mock model, whose answers are given to it, downloads a table of tokens first: without a network every
# evaluation with it ends in an error.
#
# Versions: inspect_ai 0.3.285, tiktoken 0.14.0, Python 3.11.
# Expected: `mockllm/model` is there for tests. With outputs that are given to it, it has nothing to ask a server.
# Seen: for an output without `usage` it makes one up by counting tokens with tiktoken's o200k_base, which is fetched over
#   HTTPS where the cache has none; offline the sample fails with the network's error, and the log's status is `error`.
#   Given a `usage` of any numbers the same evaluation succeeds. No network is stood for by a proxy that refuses.
#     without usage  status error    samples completed 0
#     with usage     status success  samples completed 1
#   Looked for in public issues and pull requests of inspect_ai (mockllm, tiktoken, offline, usage): not found.
#   Exits 1 if the behaviour changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet inspect_ai==0.3.285 tiktoken==0.14.0
cat > "$work/check.py" <<'PY'
import sys

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import match

found = []
for name, usage in (("without usage", None), ("with usage", ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2))):
    output = ModelOutput.from_content("mockllm/model", "blue")
    output.usage = usage
    task = Task(dataset=[Sample(input="Which colour?", target="blue")], scorer=match())
    model = get_model("mockllm/model", custom_outputs=[output], memoize=False)
    (log,) = eval(task, model=model, display="none", retry_on_error=0)
    done = log.results.completed_samples if log.results else 0
    print(f"{name:<14} status {log.status:<8} samples completed {done}")
    found.append((log.status, done, "o200k_base.tiktoken" in str(log.error.message if log.error else "")))
sys.exit(found != [("error", 0, True), ("success", 1, False)])
PY
cd "$work"
refuses=http://127.0.0.1:9
HTTPS_PROXY=$refuses HTTP_PROXY=$refuses https_proxy=$refuses TIKTOKEN_CACHE_DIR="$work/none" venv/bin/python check.py
