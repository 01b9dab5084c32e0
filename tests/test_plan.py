"""The throughput model of tests/benchmarks/plan.py: its arithmetic, its limits, and a simulation of slots."""

from __future__ import annotations

import csv
import heapq
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Qwen2Config

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests/benchmarks"))
from plan import (  # noqa: E402
    GB,
    MODELS,
    STRATEGIES,
    Model,
    Setting,
    adapter_weights,
    all_plans,
    apart,
    best,
    in_turn,
    least_sharded,
    main,
    peaks,
    predicted,
    rollout_seconds,
    server_bytes,
    sync_seconds,
)

# 1,000 weights; 10 and 100 tokens/s and GPU with all slots busy, 5 and 20 of one completion; 40 in updates.
TOY = Model(1000, 2, 8, 4, 16, 10, 5, 100, 20, 40)
# 30 completions of 10 tokens, prompts of 2: C = 300, U = 360; the longest has 25 tokens.
WORK = Setting(rollouts=30, completion=10, prompt=2, tail=2.5, sync=4, wake=6, microbatch=0, cache=0, rank=2)
DOCS = (ROOT / "docs/layouts.md").read_text()


# --- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "rollouts", "update"),
    [
        ("ddp", 4000 + 8000, 4000 + 4000 + 8000),
        ("zero1", 2000 + 12000 / 4, 2000 + 2000 + 12000 / 4),
        ("zero2", 2000 + 12000 / 4, 2000 + 2000 / 4 + 12000 / 4),
        ("zero3", 2000 / 4 + 2000 / 4 + 12000 / 4 + 2000, 16000 / 4),
        ("zero3_offload", 2000, 0),
    ],
)
def test_bytes_of_full_finetuning_on_four_gpus(strategy: str, rollouts: float, update: float) -> None:
    assert peaks(TOY, WORK, strategy, 4) == (rollouts, update)
    assert peaks(TOY, WORK, strategy, 4, beside=7) == (rollouts + 7, update)


def test_bytes_of_lora_on_four_gpus() -> None:
    s = replace(WORK, lora=True)
    adapter = 2 * 2 * (4 * (8 + 8) - 2 * (8 - 4) + 3 * (8 + 16))  # rank × layers × (q, k, v, o less for k, v; the rest)
    assert adapter_weights(TOY, 2) == adapter == 512
    assert peaks(TOY, s, "ddp", 4)[1] == 2000 + 16 * 512
    assert peaks(TOY, s, "zero2", 4)[1] == 2000 + 2 * 512 + 14 * 512 / 4
    assert peaks(TOY, s, "zero3", 4) == ((2000 + 16 * 512) / 4 + 2 * (1000 + 512), (2000 + 16 * 512) / 4)


@pytest.mark.parametrize("ranks", [1, 2, 8, 64])
@pytest.mark.parametrize("lora", [False, True])
def test_zero3_shards_everything_between_rollouts(ranks: int, lora: bool) -> None:
    s = replace(WORK, lora=lora)
    assert peaks(TOY, s, "zero3", ranks)[1] == peaks(TOY, s, "ddp", 1)[1] / ranks
    assert peaks(TOY, s, "zero2", 1)[1] == peaks(TOY, s, "ddp", 1)[1]


def test_activations_are_of_the_policys_dtype() -> None:
    numbers = 2 * 8 + 6 * (8 + 16)
    s = replace(WORK, microbatch=100)
    assert peaks(TOY, s, "ddp", 1)[1] == 16000 + 4 * 100 * numbers
    assert peaks(TOY, s, "zero2", 1)[1] == 16000 + 2 * 100 * numbers


@pytest.mark.parametrize(("name", "vocabulary", "heads"), [("1.5B", 151936, 1), ("7B", 152064, 2), ("32B", 152064, 2)])
def test_shapes_are_those_of_qwen(name: str, vocabulary: int, heads: int) -> None:
    model = MODELS[name]
    attention = 2 * model.hidden**2 + 2 * model.hidden * model.kv + model.hidden + 2 * model.kv
    layer = attention + 3 * model.hidden * model.ffn + 2 * model.hidden
    count = heads * vocabulary * model.hidden + model.layers * layer + model.hidden
    assert model.parameters == pytest.approx(count, rel=5e-4)


def test_adapters_are_those_of_peft() -> None:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    policy = AutoModelForCausalLM.from_config(Qwen2Config(vocab_size=10, num_hidden_layers=3, **shape))
    policy = get_peft_model(policy, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    count = sum(weight.numel() for weight in policy.parameters() if weight.requires_grad)
    assert adapter_weights(replace(TOY, layers=3, hidden=32, kv=16, ffn=48), 4) == count


def test_what_fits() -> None:
    s = Setting()
    assert least_sharded(MODELS["1.5B"], s, 1)[0] == "ddp"
    assert least_sharded(MODELS["7B"], s, 1)[1] > s.room  # 122 GB and activations
    assert least_sharded(MODELS["7B"], s, 8)[0] == "zero1"
    assert least_sharded(MODELS["7B"], replace(s, memory=160 / s.usable), 8)[0] == "ddp"
    # ZeRO-3 gathers 66 GB beside its shards.
    assert not any(plan.fits for plan in all_plans(MODELS["32B"], s, 8))
    assert any(plan.fits for plan in all_plans(MODELS["32B"], replace(s, memory=180), 16))


def test_a_server_has_as_many_gpus_as_it_needs() -> None:
    s = Setting(memory=100, usable=1.0)
    assert server_bytes(MODELS["32B"], s) == 65.528 * GB + 15 * GB
    plan = apart(MODELS["32B"], replace(s, memory=80), 8, 2)
    assert plan is not None
    assert (plan.servers % 2, plan.server_bytes) == (0, 65.528 * GB / 2 + 15 * GB)
    assert apart(MODELS["32B"], replace(s, memory=80), 2, 2) is None


# --- time -----------------------------------------------------------------------------------------------------------


def test_seconds_of_rollouts() -> None:
    # 300 tokens at 100/s, then (25 - 10) tokens at 20/s; on 10 GPUs the mean completion's 10 tokens at 20/s are longer.
    assert rollout_seconds(WORK, 100, 20, 1) == 3 + 0.75
    assert rollout_seconds(WORK, 100, 20, 10) == 0.5 + 0.75
    # A longest completion takes 25 / 20 s, and one has to end in each step.
    assert rollout_seconds(WORK, 100, 20, 10, batches=2) == 1.25 / 2
    assert rollout_seconds(WORK, 100, 20, 1, batches=2) == 3


def test_without_a_tail_or_with_many_batches_only_the_rate_counts() -> None:
    assert rollout_seconds(replace(WORK, tail=1), 100, 20, 3) == 300 / 300
    assert rollout_seconds(WORK, 100, 20, 50, batches=10**9) == 300 / 5000


def test_one_gpu_does_both_in_turn() -> None:
    plan = in_turn(TOY, WORK, 1, servers=False)
    rollouts, update = 300 / 10 + 15 / 5, 360 / 40
    assert plan.seconds == rollouts + update == 42
    assert plan.idle_trainers == plan.idle_servers == pytest.approx(3 / 42)  # the tail
    assert (plan.trainers, plan.servers, plan.server_bytes) == (1, 0, 0)


def test_colocated_servers_sync_and_wake() -> None:
    plan = in_turn(TOY, WORK, 3, servers=True)
    assert plan.seconds == pytest.approx(300 / 300 + 0.75 + 360 / 120 + 4 + 6)
    assert plan.idle_trainers == pytest.approx(1 - 4 / 14.75)
    assert (plan.trainer_bytes, plan.server_bytes) == (16000, 2000)  # rollouts hold 12,000 and a server's 2,000
    assert in_turn(TOY, replace(WORK, cache=1e-5), 3, servers=True).trainer_bytes == 12000 + 2000 + 10000


def test_servers_apart() -> None:
    # 300 / (100 m) + 0.75 s, without the tail from two batches on, and 360 / (40 n) s.
    synchronous, one, two = (apart(TOY, WORK, gpus, staleness) for gpus, staleness in ((5, 0), (5, 1), (6, 2)))
    assert synchronous is not None
    assert one is not None
    assert two is not None
    assert (synchronous.trainers, synchronous.seconds) == (3, pytest.approx(1.5 + 0.75 + 3 + 4))
    assert (one.trainers, one.seconds) == (3, pytest.approx(3 + 4))  # updates take 3 s, rollouts 2.25 s
    assert (two.trainers, two.seconds) == (4, pytest.approx(2.25 + 4))  # updates take 2.25 s, rollouts 1.5 s
    assert (one.idle_trainers, one.idle_servers) == (pytest.approx(1 - 3 / 7), pytest.approx(1 - 1.5 / 7))


def test_a_sync_takes_as_long_as_its_bytes() -> None:
    s = replace(WORK, sync=0)
    assert sync_seconds(TOY, s) == 1
    assert sync_seconds(MODELS["7B"], s) == 2 * 7.616e9 / 1.5e9
    assert sync_seconds(MODELS["7B"], replace(s, lora=True, rank=512)) == pytest.approx(4 * 1.292e9 / 1.5e9, rel=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_more_gpus_or_more_batches_are_never_slower(name: str) -> None:
    s = Setting(memory=10_000)
    seconds = np.array([[plan.seconds for plan in all_plans(MODELS[name], s, gpus)] for gpus in range(2, 20)])
    assert seconds.shape[1] == 7
    assert (np.diff(seconds, axis=0) <= 1e-9).all()
    assert (np.diff(seconds[:, 2:], axis=1) <= 1e-9).all()


def test_the_layout_to_choose() -> None:
    plans = all_plans(TOY, WORK, 5)
    assert best(plans) is min(plans, key=lambda plan: plan.seconds)
    slow, quick = (replace(plans[0], seconds=seconds) for seconds in (10.4, 10))
    assert best([slow, quick], 1.05) is slow
    assert best([replace(slow, fits=False), quick], 1.05) is quick
    assert best([replace(slow, fits=False)]) is not None
    assert best([]) is None


def simulated(lengths: np.ndarray, slots: int, staleness: int, update: float) -> float:
    """Seconds of a step by a loop: each completion takes the slot that is free first, each batch begins when it may."""
    free, ends, now, marks = [0.0] * slots, [0.0] * len(lengths), 0.0, []

    def begin(batch: int) -> None:
        for seconds in lengths[batch] if batch < len(lengths) else ():
            end = max(heapq.heappop(free), now) + seconds
            heapq.heappush(free, end)
            ends[batch] = max(ends[batch], end)

    for batch in range(max(staleness, 1)):
        begin(batch)
    for step in range(len(lengths)):
        now = max(now, ends[step])
        if staleness:
            begin(step + staleness)
        now += update
        if not staleness:
            begin(step + 1)
        marks.append(now)
    return float(marks[-1] - marks[9]) / (len(marks) - 10)


@pytest.mark.parametrize("staleness", [0, 1, 2, 4])
@pytest.mark.parametrize("waves", [0.5, 1, 2, 4])
@pytest.mark.parametrize("update", [0.1, 3.0])
def test_a_simulation_of_slots_takes_about_as_long(staleness: int, waves: float, update: float) -> None:
    """Lengths with a long tail; `waves` completions for each slot. Twice as many slots as completions count as one."""
    lengths = np.minimum(np.random.default_rng(0).lognormal(0, 0.7, (40, 64)), 6)
    lengths /= lengths.mean()
    tail = float((lengths.max(axis=1) / lengths.mean(axis=1)).mean())
    s = replace(WORK, rollouts=64, completion=1, tail=tail)
    rollouts = rollout_seconds(s, 64 / waves, 1, 1, staleness)
    expected = max(rollouts, update) if staleness else rollouts + update
    assert simulated(lengths, int(64 / waves), staleness, update) == pytest.approx(expected, rel=0.25)


# --- runs, and the page ---------------------------------------------------------------------------------------------


def step(rollout: float, backward: float, reward: float, staleness: float = 0) -> dict[str, float]:
    """Metrics of a step of 20 completions of 5 tokens."""
    phases = {"rollout": rollout, "backward": backward, "reward": reward}
    phases |= dict.fromkeys(("select", "observe", "logprobs", "optimizer", "sync", "other"), 0.0)
    seconds = rollout + backward + reward
    return {f"timing_s/{name}": value for name, value in phases.items()} | {
        "step_time": seconds,
        "tokens_per_second": 100 / seconds,
        "completions/mean_length": 5,
        "completions/max_length": 12,
        "sampling/staleness": staleness,
    }


def test_a_step_is_predicted_from_a_synchronous_one() -> None:
    assert predicted(step(4, 3, 1), 1) == 4 + 1
    assert predicted(step(2, 3, 1), 1) == 3 + 1
    assert predicted(step(8, 3, 1), 2) == 4 + 1


def write_metrics(path: Path, rows: list[dict[str, float]]) -> str:
    """A file of metrics, with a step before these that is left out; its path."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", *rows[0]])
        writer.writeheader()
        writer.writerows({"step": number} | row for number, row in enumerate([step(9, 9, 9), *rows]))
    return str(path)


def test_runs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = write_metrics(tmp_path / "before.csv", [step(4, 2, 1), step(4, 2, 1)])
    after = write_metrics(tmp_path / "after.csv", [step(9, 9, 9, 1), step(0, 2, 1, 2), step(1, 4, 0, 2)])
    main(["--metrics", before, "--check", after])
    printed = capsys.readouterr().out.splitlines()
    assert {"--rollouts 20", "--completion 5", "--tail 2.4"} < set(printed)
    assert {"--engine_rate 25", "--engine_speed 3", "--update_rate 50"} < set(printed)
    assert "a step: synchronous 7.000 s; predicted, S = 1: 5.000 s, S = 2: 3.000 s, " in "\n".join(printed)
    assert "measured, S = 2: 4.000 s, 1.33 of that" in printed


def test_a_file_without_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"missing\.csv has 0 steps; expected two or more"):
        main(["--metrics", str(tmp_path / "missing.csv")])


def tables(text: str) -> list[list[tuple[str, ...]]]:
    """The rows of each table in Markdown, without the line below the header."""
    blocks = re.findall(r"(?:^[ ]*\|.*\n)+", text, flags=re.MULTILINE)
    rows = [[tuple(map(str.strip, line.strip().split("|"))) for line in block.splitlines()] for block in blocks]
    return [[row for row in block if not set("".join(row)) <= {"-"}] for block in rows]


def test_the_page_shows_what_the_program_prints(capsys: pytest.CaptureFixture[str]) -> None:
    for block in re.findall(r"```sh\n(.*?)```", DOCS, flags=re.DOTALL):
        for line in block.splitlines():
            main(line.removeprefix("python tests/benchmarks/plan.py").split())
    printed = {row for table in tables(capsys.readouterr().out) for row in table}
    shown = [table for table in tables(DOCS) if table[0] in printed]
    assert [len(table) for table in shown] == [7, 3, 7, 8]
    assert {row for table in shown for row in table} <= printed


def test_every_file_that_the_page_names_exists() -> None:
    named = re.findall(r"(?:configs|tests)/[\w./]+\.\w+", DOCS)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert {name for name in STRATEGIES if f"{name}.yaml" not in DOCS} <= {"zero1"}
