"""The warm start learns, is made once, and depends on its options alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bots_lightning.quickstart import WarmStart
from bots_lightning.quickstart.tokenizer import character_tokenizer
from bots_lightning.quickstart.warm_start import POLICY, STRONG, WEAK, _supervised_batch, _supervised_loss
from bots_lightning.tasks.procedural import ALPHABET

SMALL: dict[str, Any] = {
    "families": ["add"],
    "levels": [1],
    "weak_steps": 1,
    "policy_steps": 2,
    "strong_steps": 40,
    "hidden_size": 16,
    "num_layers": 1,
    "batch_size": 8,
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BOTS_LIGHTNING_CACHE", str(tmp_path))
    return tmp_path


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_one_run_leaves_three_checkpoints_each_better_than_the_last(cache: Path) -> None:
    warm_start = WarmStart(**SMALL)
    policy = Path(warm_start.prepare())
    assert policy == warm_start.checkpoint(POLICY)
    assert {path.name for path in policy.parent.iterdir()} == {WEAK, POLICY, STRONG}
    examples = [(f"add {a}+{b}=", str(a + b)) for a in (10, 34, 55) for b in (0, 1)]
    losses = []
    for name in (WEAK, POLICY, STRONG):
        folder = warm_start.checkpoint(name)
        model = AutoModelForCausalLM.from_pretrained(folder)
        losses.append(float(_supervised_loss(model, AutoTokenizer.from_pretrained(folder), examples).detach()))
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < losses[0] - 0.5


def test_a_second_run_finds_what_the_first_one_made(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = WarmStart(**SMALL).prepare()

    def must_not_run(*_: Any) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(WarmStart, "_build", must_not_run)
    assert WarmStart(**SMALL).prepare() == first


def test_the_same_options_give_the_same_weights_and_leave_the_global_generator_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.random.get_rng_state()
    monkeypatch.setenv("BOTS_LIGHTNING_CACHE", str(tmp_path / "one"))
    one = weights(WarmStart(**SMALL | {"strong_steps": 3}).prepare())
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(99)
    monkeypatch.setenv("BOTS_LIGHTNING_CACHE", str(tmp_path / "two"))
    assert same(one, weights(WarmStart(**SMALL | {"strong_steps": 3}).prepare()))
    other = weights(WarmStart(**SMALL | {"strong_steps": 3, "seed": 1}).prepare())
    assert not same(one, other)


@pytest.mark.parametrize(
    "change",
    [
        {"families": ["sub"]},
        {"levels": [2]},
        {"weak_steps": 2, "policy_steps": 3},
        {"strong_steps": 41},
        {"hidden_size": 32},
        {"num_layers": 2},
        {"batch_size": 9},
        {"learning_rate": 1e-3},
        {"seed": 1},
    ],
)
def test_every_option_changes_the_key(change: dict[str, Any]) -> None:
    assert WarmStart(**SMALL).key() == WarmStart(**SMALL).key()
    assert WarmStart(**SMALL | change).key() != WarmStart(**SMALL).key()


@pytest.mark.parametrize("steps", [(0, 1, 2), (2, 2, 3), (1, 3, 3), (3, 2, 1)])
def test_steps_must_ascend(steps: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=rf"weak_steps={steps[0]}.*0 < weak < policy < strong"):
        WarmStart(weak_steps=steps[0], policy_steps=steps[1], strong_steps=steps[2])


def test_the_loss_counts_answers_and_stop_tokens_only() -> None:
    tokenizer = character_tokenizer(ALPHABET)
    batch = _supervised_batch(tokenizer, [("1+1=", "2"), ("9+4=", "13")])
    code = tokenizer.get_vocab()
    assert batch["input_ids"].tolist() == [
        [*(code[c] for c in "1+1=2"), 1, 0],
        [*(code[c] for c in "9+4=13"), 1],
    ]
    assert batch["labels"].tolist() == [
        [-100, -100, -100, -100, code["2"], 1, -100],
        [-100, -100, -100, -100, code["1"], code["3"], 1],
    ]


def test_the_loss_is_the_mean_negative_log_likelihood() -> None:
    tokenizer = character_tokenizer(ALPHABET)
    with torch.random.fork_rng():
        model = WarmStart(**SMALL)._new_model(tokenizer)
    examples = [("1+1=", "2"), ("add 9+4=", "13")]
    terms = []
    for prompt, answer in examples:  # each by itself, without padding
        ids = torch.tensor([[*tokenizer(prompt + answer)["input_ids"], tokenizer.eos_token_id]])
        logprobs = model(ids).logits[0].log_softmax(-1)
        terms += [-logprobs[t - 1, ids[0, t]] for t in range(len(prompt), ids.shape[1])]
    torch.testing.assert_close(_supervised_loss(model, tokenizer, examples), torch.stack(terms).mean())
