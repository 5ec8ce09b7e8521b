"""Measure tokens per second of onnxruntime-genai folders in turn, and print them as JSON."""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import onnxruntime_genai as og

LOWEST_TOKEN, HIGHEST_TOKEN = 1_000, 20_000  # ordinary words in the vocabularies measured here
SEED = 7


def run_once(model: og.Model, prompt: list[int], new_tokens: int) -> dict[str, float]:
    """Prefill `prompt` and decode `new_tokens` greedily at batch 1; return both tokens per second.

    The first token is chosen from the prefill's own logits, so it counts to the prefill.
    """
    length = len(prompt) + new_tokens + 1
    parameters = og.GeneratorParams(model)
    # An equal least length keeps an end-of-text token from stopping one model early.
    parameters.set_search_options(do_sample=False, max_length=length, min_length=length)
    generator = og.Generator(model, parameters)
    start = time.perf_counter()
    generator.append_tokens(prompt)
    generator.generate_next_token()
    middle = time.perf_counter()
    for _ in range(new_tokens):
        generator.generate_next_token()
    end = time.perf_counter()
    return {
        "prefill": round(len(prompt) / (middle - start), 2),
        "decode": round(new_tokens / (end - middle), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--prompt-tokens", type=int, required=True)
    parser.add_argument("--new-tokens", type=int, required=True)
    parser.add_argument("--repetitions", type=int, required=True)
    options = parser.parse_args()
    models = [og.Model(str(folder)) for folder in options.folders]
    words = random.Random(SEED)
    prompt = [words.randint(LOWEST_TOKEN, HIGHEST_TOKEN) for _ in range(options.prompt_tokens)]
    for model in models:
        run_once(model, prompt, options.new_tokens)  # the first run pays for allocation
    runs: list[list[dict[str, float]]] = [[] for _ in models]
    for repetition in range(options.repetitions):
        # Who goes first alternates: the second of a pair meets a warmer machine.
        order = range(len(models)) if repetition % 2 == 0 else reversed(range(len(models)))
        for index in order:
            runs[index].append(run_once(models[index], prompt, options.new_tokens))
    print(json.dumps(runs))


if __name__ == "__main__":
    main()
