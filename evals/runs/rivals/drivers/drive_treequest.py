# mypy: ignore-errors
"""treequest 0.3.3, which searches and leaves calling the model to a function of the user's.

Out of the box: the README's loop, `ABMCTSA().step` N times with OpenAI's client as it comes, and `top_k`. Best: the
README's batches of five (`ask_batch`, `tell`), their calls in threads, six tries, and a call that is lost for good is
not told. In both the function answers afresh at the root, and elsewhere writes the second half of its parent's lines
anew, since the lab's policy cannot be asked to improve on an answer; the score is the mean probability of a token, and
0 without a stated answer. A job is cancelled by Ctrl-C.
"""

import math
import random
from concurrent.futures import ThreadPoolExecutor

import numpy
import treequest
from common import drive_threads, read, stated
from openai import OpenAI

BATCH = 5


def main(setup, jobs):
    """Solve all jobs."""
    random.seed(setup["seed"])
    numpy.random.seed(setup["seed"])
    url = setup["url"] + "/v1"
    client = OpenAI(base_url=url, api_key="none", **({"max_retries": 5} if setup["setup"] == "best" else {}))

    def solve(job):
        def generate(parent):
            return written(client, setup, job["prompt"], parent)

        search = batches if setup["setup"] == "best" else one_by_one
        algorithm = treequest.ABMCTSA()
        tree = search(algorithm, generate, job["n"])
        (text, _), *_ = treequest.top_k(tree, algorithm, k=1)
        return text, None

    drive_threads(solve, jobs, setup["concurrency"])


def one_by_one(algorithm, generate, n):
    """The README's loop."""
    tree = algorithm.init_tree()
    for _ in range(n):
        tree = algorithm.step(tree, {"write": generate})
    return tree


def batches(algorithm, generate, n):
    """The README's loop over batches."""
    tree = algorithm.init_tree()
    with ThreadPoolExecutor(BATCH) as pool:
        for done in range(0, n, BATCH):
            tree, trials = algorithm.ask_batch(tree, min(BATCH, n - done), ["write"])
            calls = [(trial, pool.submit(generate, trial.parent_state)) for trial in trials]
            for trial, call in calls:
                if not call.exception():
                    tree = algorithm.tell(tree, trial.trial_id, call.result())
    return tree


def written(client, setup, prompt, parent):
    """A text and its score."""
    messages, kept, more = [{"role": "user", "content": prompt}], "", {}
    if parent is not None:
        lines = parent.splitlines(keepends=True)
        kept = "".join(lines[: len(lines) // 2])
        messages.append({"role": "assistant", "content": kept})
        more = {"extra_body": {"continue_final_message": True}}
    found = client.chat.completions.create(
        model=setup["model"],
        messages=messages,
        temperature=setup["temperature"],
        max_tokens=setup["max_tokens"],
        logprobs=True,
        **more,
    ).choices[0]
    text = kept + found.message.content
    logprobs = [token.logprob for token in found.logprobs.content]
    sure = math.exp(sum(logprobs) / len(logprobs)) if logprobs else 0.0
    return text, sure if stated(setup["pattern"], text) else 0.0


main(*read())
