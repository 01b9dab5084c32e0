"""Which layout of some GPUs is the fastest, and what fits: estimates from rates, not measurements.

    python tests/benchmarks/plan.py
    python tests/benchmarks/plan.py --models 7B --tunings full --gpus 16 --memory 141 --server_rate 12000 --sync 4
    python tests/benchmarks/plan.py --metrics runs/synchronous/metrics.csv --check runs/asynchronous/metrics.csv

The rates are assumptions, round numbers for a GPU of 80 GB: give your own. `--metrics` prints those of a synchronous
run, of all its GPUs together, and what its steps would take with max_staleness S; `--check` compares that with an
asynchronous run. Communication between ranks, evaluations and checkpoints are left out.
"""

# G GPUs: n train, m have servers. Tokens: C generated in a step, U learned from, L of the mean completion. S staleness.

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from statistics import mean, median

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from bots_lightning.evaluation import read_metrics

GB = 1e9
STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "zero3_offload")
BY_GPUS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Model:
    """Shape and rates: tokens/s and GPU, in generation with all slots busy; a speed is that of one completion."""

    parameters: float
    layers: float
    hidden: float
    kv: float  # width of a token's keys in a layer
    ffn: float
    engine_rate: float  # of the engine in the training process
    engine_speed: float
    server_rate: float
    server_speed: float
    update_rate: float  # prompts count too; log-probabilities included


MODELS = {  # shapes of Qwen2.5, assumed rates
    "1.5B": Model(1.544e9, 28, 1536, 256, 8960, 6000, 30, 30000, 100, 24000),
    "7B": Model(7.616e9, 28, 3584, 512, 18944, 2500, 25, 10000, 50, 5000),
    "32B": Model(32.764e9, 64, 5120, 1024, 27648, 300, 12, 2300, 25, 1200),
}


@dataclass(frozen=True)
class Setting:
    """Machine and work of a step: rollouts, cache, micro-batch and rank as in `configs`; the rest are assumptions."""

    memory: float = 80  # GB of a GPU
    usable: float = 0.9  # what CUDA, buffers and fragments leave of it
    cache: float = 15  # GB of KV cache on a GPU that generates
    rollouts: float = 512
    completion: float = 800  # tokens of the mean one
    prompt: float = 250
    tail: float = 2.56  # longest over mean completion of a batch
    sync: float = 0  # seconds until servers have new weights; 0: see sync_seconds
    wake: float = 3  # seconds in which co-located servers fall asleep and wake up
    microbatch: float = 24576  # tokens, with gradient checkpointing
    rank: float = 32  # of LoRA
    lora: bool = False

    @property
    def generated(self) -> float:
        """C."""
        return self.rollouts * self.completion

    @property
    def learned(self) -> float:
        """U: each rollout with its prompt."""
        return self.rollouts * (self.prompt + self.completion)

    @property
    def room(self) -> float:
        """Bytes of a GPU that can be used."""
        return GB * self.memory * self.usable


@dataclass(frozen=True)
class Plan:
    """What a layout takes: GPUs, bytes of a GPU, seconds of a step, and the shares of them that GPUs are idle."""

    layout: str
    trainers: int
    servers: int
    strategy: str
    trainer_bytes: float
    server_bytes: float
    fits: bool
    seconds: float
    idle_trainers: float
    idle_servers: float


def adapter_weights(model: Model, rank: float) -> float:
    """Of a LoRA on all linear layers: rank × (inputs + outputs) of q, k, v, o, gate, up and down."""
    return rank * model.layers * (9 * model.hidden + 2 * model.kv + 3 * model.ffn)


def peaks(model: Model, s: Setting, strategy: str, n: int, beside: float = 0.0) -> tuple[float, float]:
    """Bytes of each of n GPUs that train under bf16-mixed, at the peaks of rollouts and of updates.

    A trained weight takes 16 bytes: under ddp or alone, float32 for weight (4), gradient (4) and AdamW's moments (8);
    under DeepSpeed, which casts, bfloat16 for weight (2) and gradient (2), float32 for a copy and the moments (12).
    zero1 shards these 12, zero2 the gradients too, zero3 all; zero3_offload holds them in the host's memory. A frozen
    weight of LoRA takes 2 (`policy.dtype: bfloat16`; the default takes 4), and only zero3 shards it.

    Rollouts hold no gradients, except under zero3, which also gathers all weights then, 2 bytes each, even for servers.
    On the same GPU there may be `beside` bytes: the KV cache, a server. Updates hold, for each token of a micro-batch,
    the inputs of all layers and 6 (hidden + ffn) numbers of one layer.
    """
    trained, frozen = (adapter_weights(model, s.rank), model.parameters) if s.lora else (model.parameters, 0.0)
    stage = min(STRATEGIES.index(strategy), 3)
    per_weight, per_gradient, per_state = (2, 2, 12) if stage else (4, 4, 8)
    weights = (per_weight * trained + 2 * frozen) / (n if stage == 3 else 1)
    gradients = per_gradient * trained / (n if stage >= 2 else 1)
    state = per_state * trained / (n if stage else 1)
    if strategy == "zero3_offload":
        weights = gradients = state = 0.0
    gathered = gradients + 2 * (trained + frozen) if stage == 3 else 0.0
    numbers = model.layers * model.hidden + 6 * (model.hidden + model.ffn)
    activations = (2 if stage or s.lora else 4) * s.microbatch * numbers
    return weights + state + gathered + beside, weights + gradients + state + activations


def server_bytes(model: Model, s: Setting, parallel: int = 1) -> float:
    """Of a GPU: its share of bfloat16 weights, if a server has several GPUs (tensor parallel), and the KV cache."""
    return 2 * model.parameters / parallel + GB * s.cache


def least_sharded(model: Model, s: Setting, n: int, beside: float = 0.0) -> tuple[str, float]:
    """The first strategy that fits, without offloading, and its peak; if none does, the smallest."""
    found = [(name, max(peaks(model, s, name, n, beside))) for name in STRATEGIES[: 4 if n > 1 else 1]]
    return min(found, key=lambda each: (each[1] > s.room, each[1] if each[1] > s.room else 0))


def rollout_seconds(s: Setting, rate: float, speed: float, gpus: int, batches: int = 1) -> float:
    """Seconds of rollouts in a step.

    One batch: all slots are busy for C / (gpus · rate), and no less than the mean completion takes, L / speed; then
    they wait for the longest one, (tail − 1) · L / speed. With S > 1 batches under way, the slots that one leaves serve
    the next; but none ends before its longest completion, tail · L / speed, and one has to end in each step:
    max(C / (gpus · rate), tail · L / (S · speed)).
    """
    work, alone = s.generated / (gpus * rate), s.completion / speed
    return max(work, s.tail * alone / batches) if batches > 1 else max(work, alone) + (s.tail - 1) * alone


def sync_seconds(model: Model, s: Setting) -> float:
    """If not given: an adapter in float32, or all weights in bfloat16, written and read at 1.5 GB/s, at least 1 s."""
    return s.sync or max(1.0, (4 * adapter_weights(model, s.rank) if s.lora else 2 * model.parameters) / 1.5e9)


def in_turn(model: Model, s: Setting, gpus: int, servers: bool) -> Plan:
    """All GPUs generate, then learn: rollouts + U / (G · rate), and with co-located servers + sync + wake.

    Both idle shares are of the same GPUs, which at full rates would need C / (G · rate) + U / (G · rate).
    """
    rate, speed, beside, more = model.engine_rate, model.engine_speed, GB * s.cache, 0.0
    if servers:
        rate, speed = model.server_rate, model.server_speed
        beside, more = server_bytes(model, s), sync_seconds(model, s) + s.wake
    update, strategy = s.learned / (gpus * model.update_rate), least_sharded(model, s, gpus, beside)
    seconds = rollout_seconds(s, rate, speed, gpus) + update + more
    idle = 1 - (s.generated / (gpus * rate) + update) / seconds
    layout, fits = "co-located servers" if servers else "engine in process", strategy[1] <= s.room
    return Plan(layout, gpus, gpus * servers, *strategy, beside * servers, fits, seconds, idle, idle)


def apart(model: Model, s: Setting, gpus: int, staleness: int) -> Plan | None:
    """Servers on m GPUs, training on n others, for the best n and m; None where there are too few GPUs.

    Synchronous: rollouts + U / (n · rate) + sync. Asynchronous: max(rollouts, U / (n · rate)) + sync, since weights are
    written before the update and loaded by servers beside it. A server has the fewest of 1, 2, 4, 8 GPUs that fit.
    """
    parallel = next((p for p in (1, 2, 4) if server_bytes(model, s, p) <= s.room), 8)
    server, sync, plans = server_bytes(model, s, parallel), sync_seconds(model, s), []
    for n in range(1, gpus):
        if m := (gpus - n) // parallel * parallel:
            rollouts = rollout_seconds(s, model.server_rate, model.server_speed, m, staleness)
            update, strategy = s.learned / (n * model.update_rate), least_sharded(model, s, n)
            seconds = sync + (max(rollouts, update) if staleness else rollouts + update)
            idle = 1 - update / seconds, 1 - s.generated / (m * model.server_rate) / seconds
            layout, fits = f"servers, S = {staleness}", max(strategy[1], server) <= s.room
            plans.append(Plan(layout, n, m, *strategy, server, fits, seconds, *idle))
    return best(plans)


def all_plans(model: Model, s: Setting, gpus: int) -> list[Plan]:
    """Every layout of so many GPUs."""
    found = [in_turn(model, s, gpus, False), in_turn(model, s, gpus, True)]
    return found + [plan for staleness in range(5) if (plan := apart(model, s, gpus, staleness))]


def best(plans: list[Plan], slack: float = 1.0) -> Plan | None:
    """Of those that fit, or of all if none does, the first that takes at most `slack` times as long as the fastest."""
    fitting = [plan for plan in plans if plan.fits] or plans
    return next((plan for plan in fitting if plan.seconds <= slack * min(each.seconds for each in fitting)), None)


def steps_of(path: str) -> list[dict[str, float]]:
    """The rows of all steps, without the first, which warms up."""
    rows = [row for row in read_metrics(path) if "step_time" in row]
    if len(rows) < 2:
        raise SystemExit(f"{path} has {len(rows)} steps; expected two or more.")
    return rows[1:]


def learning(row: dict[str, float]) -> float:
    """Seconds of a step beside which the next batch is sampled, with max_staleness 1."""
    return sum(row[f"timing_s/{phase}"] for phase in ("logprobs", "backward", "optimizer", "other"))


def predicted(row: dict[str, float], staleness: float) -> float:
    """Seconds of a step with S ≥ 1, from those of a synchronous one: max(rollout / S, learning) + the rest.

    S batches share the time of rollouts only where servers have slots for all; an engine in process takes S = 1.
    """
    rollout, learn = row["timing_s/rollout"], learning(row)
    return max(rollout / staleness, learn) + row["step_time"] - rollout - learn


def rates_of(row: dict[str, float]) -> dict[str, float]:
    """Options, by a synchronous step: rates of all GPUs; of rollouts lower bounds, of updates without prompts."""
    tokens, mean = row["tokens_per_second"] * row["step_time"], row["completions/mean_length"]
    longest, rollout = row["completions/max_length"], row["timing_s/rollout"]
    found = {"rollouts": tokens / mean, "completion": mean, "tail": longest / mean, "engine_rate": tokens / rollout}
    return found | {"engine_speed": longest / rollout, "update_rate": tokens / learning(row)}


def compare(synchronous: str, asynchronous: str | None, console: Console) -> None:
    """Prints the rates of a run, and predicted against measured seconds: means, since steps may come in bunches."""
    steps = steps_of(synchronous)
    for name in rates_of(steps[0]):
        console.print(f"--{name} {median(rates_of(row)[name] for row in steps):.4g}")
    seconds = {S: median(predicted(row, S) for row in steps) for S in (1, 2, 3, 4)}
    expected = ", ".join(f"S = {S}: {after:.3f} s" for S, after in seconds.items())
    console.print(f"a step: synchronous {median(row['step_time'] for row in steps):.3f} s; predicted, {expected}")
    if asynchronous:
        rows = steps_of(asynchronous)
        staleness = max(row["sampling/staleness"] for row in rows)  # less while the first batches are begun
        found = mean(row["step_time"] for row in rows if row["sampling/staleness"] == staleness)
        console.print(f"measured, S = {staleness:g}: {found:.3f} s, {found / seconds[int(staleness)]:.2f} of that")


def layouts(model: Model, s: Setting, gpus: int, name: str) -> Table:
    """A row for each layout of so many GPUs."""
    columns = "layout", "train + serve", "strategy", "GB", "GB server", "fits", "s a step", "tokens/s", "idle"
    table = Table(*columns, box=MARKDOWN, title=f"{name}, {gpus} GPUs of {s.memory:g} GB: estimates")
    for plan in all_plans(model, s, gpus):
        sizes = f"{plan.trainer_bytes / GB:.0f}", f"{plan.server_bytes / GB:.0f}", "yes" if plan.fits else "no"
        idle = " / ".join(dict.fromkeys(f"{idle:.0%}" for idle in (plan.idle_trainers, plan.idle_servers)))
        times = f"{plan.seconds:.0f}", f"{s.generated / plan.seconds:,.0f}", idle
        table.add_row(plan.layout, f"{plan.trainers} + {plan.servers}", plan.strategy, *sizes, *times)
    return table


def main(words: Sequence[str] | None = None) -> None:
    """Prints what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--tunings", nargs="+", choices=("LoRA", "full"), default=["LoRA", "full"])
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--metrics", help="metrics.csv of a synchronous run")
    parser.add_argument("--check", help="metrics.csv of an asynchronous run")
    for each in (*fields(Model), *fields(Setting)[:-1]):
        parser.add_argument(f"--{each.name}", type=float, help="instead of what is assumed")
    options, console = parser.parse_args(words), Console(width=240)
    if options.metrics:
        compare(options.metrics, options.check, console)
        return
    given = {name: value for name, value in vars(options).items() if value is not None}
    memory = Table("GB of a GPU", *STRATEGIES, "server", box=MARKDOWN)
    by_gpus = Table("GPUs", *map(str, BY_GPUS), box=MARKDOWN)
    for size, tuning in product(options.models, options.tunings):
        model = replace(MODELS[size], **{each.name: given[each.name] for each in fields(Model) if each.name in given})
        chosen = {each.name: given[each.name] for each in fields(Setting) if each.name in given}
        s, name = replace(Setting(), **chosen, lora=tuning == "LoRA"), f"{size} {tuning}"
        console.print(layouts(model, s, options.gpus, name))
        sizes = [max(peaks(model, s, strategy, options.gpus)) for strategy in STRATEGIES] + [server_bytes(model, s)]
        memory.add_row(name, *(f"{size / GB:.0f}" for size in sizes))
        found = [best(all_plans(model, s, count), 1.05) for count in BY_GPUS]  # the first, from on-policy to stale
        cells = (f"{p.layout}, {p.trainers} + {p.servers}: {p.seconds:.0f} s" if p and p.fits else "–" for p in found)
        by_gpus.add_row(name, *cells)
    console.print(memory, by_gpus)


if __name__ == "__main__":
    main()
