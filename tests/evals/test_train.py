"""Trainings small enough for a test: the same from the same seed, also when interrupted, and loadable everywhere."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the local backend's extra is not installed")


from evals.lab import chain, examples, settings  # noqa: E402
from evals.lab.chain import Chain  # noqa: E402
from evals.lab.examples import (  # noqa: E402
    BAD,
    GOOD,
    IGNORED,
    TAG,
    Corrections,
    Example,
    Rewards,
    log_good,
    policy_example,
    rollouts_of,
    tagged,
)
from evals.lab.reward import RewardModel  # noqa: E402
from evals.lab.settings import CorrectorSettings, RewardSettings, read_settings  # noqa: E402
from evals.lab.tokens import ALPHABETS, BOS_ID, EOS_ID, PAD_ID  # noqa: E402
from evals.lab.train import Training, packed, tensors  # noqa: E402
from tts.backends.local import LocalBackend  # noqa: E402
from tts.errors import UsageError  # noqa: E402

CHAIN = ALPHABETS["chain"]
encode = CHAIN.encode
POLICY = """
kind = "policy"
task = "chain"
seed = 3
tokens = 60_000
batch_tokens = 2048
hidden = 32
layers = 1
intermediate = 32
heads = 2
kv_heads = 1
"""
CORRECTOR = """
kind = "corrector"
task = "chain"
seed = 3
tokens = 20_000
batch_tokens = 2048
policy = "policy"
"""
REWARD = """
kind = "reward"
task = "chain"
seed = 3
tokens = 80_000
batch_tokens = 512
learning_rate = 1e-2
corrector = "corrector"
rollouts = "policy"
"""


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda model, **options: model)


def written(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "training.toml").write_text(text)
    return folder


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / ".training" / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda model, **options: model)
        patch.setattr("evals.lab.train.SAY_SECONDS", 0.0)
        folder = written(tmp_path_factory.mktemp("models") / "policy", POLICY)
        Training(folder).run()
    return folder


def test_a_training_learns_and_leaves_snapshots_and_a_model_that_the_local_backend_loads(policy: Path) -> None:
    said = losses(policy)
    assert said[-1] < 0.9 * said[0]
    for folder in (policy, policy / ".training" / "25%", policy / ".training" / "50%"):
        assert LocalBackend(folder).info.layers == 1
        assert (folder / "chat_template.jinja").is_file()


def test_an_interrupted_training_ends_with_the_same_weights(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path / "again", POLICY)
    monkeypatch.setattr("evals.lab.train.SAVE_SECONDS", 0.0)
    step, calls = Training._step, iter(range(100))

    def dies(self: Training, batch: list[Example]) -> float:
        if next(calls) == 12:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(Training, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        Training(folder).run()
    monkeypatch.setattr(Training, "_step", step)
    resumed = Training(folder)
    assert 0 < resumed.done < 60_000
    resumed.run()
    assert weights(folder) == weights(policy)


def test_settings_that_changed_since_are_not_mixed_in(policy: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "m", POLICY)
    Training(folder)._checkpoint()
    written(folder, POLICY.replace("seed = 3", "seed = 4"))
    with pytest.raises(UsageError, match=r"training\.toml changed since this training began"):
        Training(folder)


def test_weights_that_are_there_are_written_over_only_when_asked(policy: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "m", POLICY)
    (folder / "model.safetensors").write_bytes(weights(policy))
    with pytest.raises(UsageError, match="--again trains new ones over them"):
        Training(folder)
    assert Training(folder, again=True).done == 0


@pytest.mark.parametrize("text", ["", "task = 'chess'", "not toml", POLICY + "deepth = 3\n"])
def test_settings_that_make_no_sense_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the training settings"):
        read_settings(written(tmp_path / "m", text))


def test_only_the_solution_and_its_end_are_learnt() -> None:
    example = policy_example(CHAIN, "a=1+2\na?\n", "a:\n=3")
    assert example.ids == [BOS_ID, *encode("a=1+2\na?\na:\n=3"), EOS_ID]
    assert [i for i in example.targets if i != IGNORED] == [*encode("a:\n=3"), EOS_ID]
    for i, target in enumerate(example.targets[:-1]):
        assert target in (IGNORED, example.ids[i + 1])


def test_batches_hold_everything_once_and_no_more_than_fits() -> None:
    drawn = [Example([7] * n, [IGNORED] * n) for n in random.Random(1).choices(range(5, 60), k=100)]
    batches = packed(drawn, 200, random.Random(2))
    assert sorted(len(e.ids) for batch in batches for e in batch) == sorted(len(e.ids) for e in drawn)
    assert all(max(len(e.ids) for e in batch) * len(batch) <= 200 for batch in batches)
    inputs, targets = tensors([Example([5, 6], [6, IGNORED]), Example([5], [IGNORED])])
    assert inputs.tolist() == [[5, 6], [5, PAD_ID]]
    assert targets.tolist() == [[6, IGNORED], [IGNORED, IGNORED]]


@pytest.fixture
def models(policy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Beside the policy, rollouts of which a step is right where it names an `a`."""
    for module in (settings, examples):
        monkeypatch.setattr(module, "MODELS", policy.parent)
    monkeypatch.setattr("evals.lab.train.MODELS", policy.parent)
    rng, lines = random.Random(1), []
    for index in range(60):
        steps = [f"{rng.choice('abc')}={rng.randint(0, 9)}\n" for _ in range(5)]
        first = next((i for i, step in enumerate(steps) if not step.startswith("a")), None)
        lines.append({"index": index, "prompt": "a?\n", "solutions": [{"steps": steps, "first_error": first}]})
    lines.append({"index": 60, "prompt": "b?\n", "solutions": []})
    (policy / ".training" / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))
    return policy.parent


def rewards(**fields: Any) -> Rewards:
    base = {"kind": "reward", "task": "chain", "seed": 3, "tokens": 1, "corrector": "none", "rollouts": "policy"}
    return Rewards(RewardSettings.model_validate({**base, **fields}))


def drawn(**fields: Any) -> list[tuple[str, bool]]:
    """Every step of which a verdict is taught, by the name it begins with, and the verdict."""
    found = []
    for example in rewards(**fields).draw(random.Random(1), 400, 0.0):
        read = example.targets.count(IGNORED)
        assert example.ids[:read] == tagged("a?\n", [])
        for at in range(read, len(example.ids), 4):
            assert example.ids[at + 3] == TAG
            assert example.targets[at : at + 4] in ([GOOD] * 4, [BAD] * 4)
            found.append(("abc"[example.ids[at] - encode("a")[0]], example.targets[at] == GOOD))
    return found


@pytest.mark.usefixtures("models")
def test_verdicts_end_with_the_first_hopeless_step() -> None:
    taught = drawn()
    assert all(good == (name == "a") for name, good in taught)
    assert {good for _, good in taught} == {True, False}


@pytest.mark.usefixtures("models")
def test_flipped_labels_are_wrong_as_often_as_asked_and_shuffled_ones_tell_nothing() -> None:
    flipped = drawn(flipped=0.2)
    wrong = sum(good != (name == "a") for name, good in flipped) / len(flipped)
    assert 0.1 < wrong < 0.35
    shuffled = drawn(shuffled=True)
    shares = [
        sum(good for name, good in shuffled if (name == "a") == a)
        / max(1, sum((name == "a") == a for name, _ in shuffled))
        for a in (True, False)
    ]
    assert abs(shares[0] - shares[1]) < 0.2


def test_a_line_is_as_good_as_all_its_symbols() -> None:
    ids = torch.tensor([[BOS_ID, *encode("a=1\nb=2\n")], [BOS_ID, *encode("a=1\n"), *[PAD_ID] * 4]])
    judged, ends = (ids != PAD_ID) & (ids != BOS_ID), ids == TAG
    logits = torch.randn(*ids.shape, 152, generator=torch.Generator().manual_seed(1))
    chances = logits.softmax(-1)[..., GOOD]
    found = log_good(logits, judged, ends).exp()
    for line, value in zip((chances[0, 1:5], chances[0, 5:9], chances[1, 1:5]), found, strict=True):
        assert float(value) == pytest.approx(float(line.prod()))


@pytest.mark.usefixtures("models")
def test_both_verdicts_count_as_much_in_all() -> None:
    source = rewards()
    inputs, targets = tensors(list(source.draw(random.Random(1), 2000, 0.0)))
    costs = {}
    for verdict in (GOOD, BAD):
        logits = torch.zeros(*inputs.shape, 152)
        logits[..., GOOD] = torch.where(targets == verdict, 4.0, 9.0 if verdict == BAD else 0.0)
        only = torch.where(targets == verdict, targets, IGNORED)
        share = float(((targets == verdict) & (inputs == TAG)).sum() / ((targets != IGNORED) & (inputs == TAG)).sum())
        said = log_good(logits, only != IGNORED, (only != IGNORED) & (inputs == TAG))
        alone = -said.mean() if verdict == GOOD else -torch.log(-torch.expm1(said)).mean()
        costs[verdict] = float(source.loss(logits, inputs, only) / alone) * share
    assert costs[GOOD] == pytest.approx(costs[BAD], rel=0.1) == pytest.approx(0.5, rel=0.1)


def corrections(**fields: float) -> list[tuple[Chain, list[list[tuple[int, int]]]]]:
    """Problems, and the lines of a solution with errors: every symbol with what is taught there."""
    base = {"kind": "corrector", "task": "chain", "seed": 3, "tokens": 1, "policy": "policy"}
    source = Corrections(CorrectorSettings.model_validate({**base, **fields}))
    found = []
    for example in source.draw(random.Random(1), 40, 1.0):
        read = next(i for i, target in enumerate(example.targets) if target != IGNORED)
        lines: list[list[tuple[int, int]]] = [[]]
        for pair in zip(example.ids[read:], example.targets[read:], strict=True):
            lines[-1].append(pair)
            if pair[0] == TAG:
                lines.append([])
        found.append((chain.read("".join(CHAIN.tokens[i] for i in example.ids[1 : read - 1])), lines[:-1]))
    return found


def test_errors_are_taught_with_what_should_stand_there() -> None:
    wrong = 0
    for problem, lines in corrections(replaced=0.2, strayed=0.0):
        for line in lines:
            *symbols, (end, verdict) = line
            assert end == TAG
            assert verdict == (GOOD if all(wanted == GOOD for _, wanted in symbols) else BAD)
            wrong += verdict == BAD
        mended = [[read if wanted == GOOD else wanted for read, wanted in line[:-1]] for line in lines]
        assert "\n".join("".join(CHAIN.tokens[i] for i in line) for line in mended) == "".join(problem.steps)
    assert wrong > 50


def test_a_list_goes_astray_once_and_what_it_lacks_is_not_computed() -> None:
    lists, (colon, equals) = 0, encode(":=")
    for problem, lines in corrections(replaced=0.0, strayed=1.0):
        rights = {step[0]: encode(step[:-1]) for step in problem.steps if step.endswith(":\n")}
        listed: set[int] = set()
        for *symbols, (_, verdict) in lines:
            read, wanted = ([pair[i] for pair in symbols] for i in (0, 1))
            if colon in read:
                lists += 1
                right = rights[CHAIN.tokens[read[0]]]
                place = next(i for i, each in enumerate(wanted) if each != GOOD)
                assert (read[:place], wanted[place]) == (right[:place], right[place])
                assert read[place] != right[place]
                assert set(wanted[place + 1 :]) <= {IGNORED}
                assert verdict == BAD
                listed.update(read)
            elif read[0] != equals:
                assert read[0] in listed
    assert lists > 80
    faultless = corrections(replaced=0.0, strayed=0.0)
    assert all(wanted == GOOD for _, lines in faultless for line in lines for _, wanted in line)


def test_a_reward_model_starts_from_a_corrector_and_learns_to_tell_steps_apart(models: Path) -> None:
    folder = written(models / "reward", REWARD)
    with pytest.raises(UsageError, match=r"corrector has no weights yet: python -m evals\.lab\.train"):
        Training(folder)
    corrector = written(models / "corrector", CORRECTOR)
    Training(corrector).run()
    assert losses(corrector)[-1] < losses(corrector)[0]
    Training(folder).run()
    good, bad, again = RewardModel(folder).score("a?\n", [["a=1\n", "a=2"], ["b=1\n"], ["a=1\n", "a=2"]])
    assert (len(good), len(bad)) == (2, 1)
    assert min(good) > 0.5 > bad[0]
    assert again == good
    (corrector / "model.safetensors").write_bytes(weights(folder))
    rollouts_of(models / "policy").write_text("")
    with pytest.raises(UsageError, match=r"corrector/model.* and policy/.*rollouts\.jsonl changed since"):
        Training(folder)


def test_scores_do_not_depend_on_what_else_is_scored(policy: Path) -> None:
    assert tagged("a?\n", ["a=1\n", "=1"]) == [BOS_ID, *encode("a?\na=1\n=1\n")]
    model = RewardModel(policy)
    solutions = [["a=1\n"] * n for n in (1, 7, 3)]
    alone = [model.score("a?\n", [solution])[0] for solution in solutions]
    together = model.score("a?\n", solutions)
    for one, other in zip(alone, together, strict=True):
        assert other == pytest.approx(one, rel=0.2, abs=0.0)  # bfloat16, over four symbols


def test_rollouts_that_were_never_made_are_asked_for(models: Path) -> None:
    reward = RewardSettings(kind="reward", task="chain", seed=1, tokens=1, corrector="none", rollouts="nobody")
    with pytest.raises(UsageError, match=r"no rollouts of nobody: python -m evals\.lab\.rollouts"):
        Rewards(reward)
