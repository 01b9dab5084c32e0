"""The job with inference nodes: what it would start where, by stand-ins of SLURM's commands and of our own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "configs" / "slurm_servers.sbatch"

COMMANDS = {
    "scontrol": '[[ $1 == show ]] && printf "infer1\\ninfer2\\n" || echo "requeued $2" >> said',
    # A step: on inference nodes, all four tasks one after another.
    "srun": """
        group=$1; shift
        [[ $group == --het-group=0 ]] && exec "$@"
        for task in 0 1 2 3; do SLURM_PROCID=$task "$@" & done; wait""",
    "bots-lightning": """
        echo "$@" >> said
        [[ $1 == serve ]] && for i in 1 2 3 4; do echo "VLLM_SWITCH=$i vllm serve '/a model' --port $i"; done
        [[ $1 == fit ]] && sleep 1 && mkdir -p runs/r && echo "name: r" > runs/r/config.yaml || true""",
    "vllm": 'kill -USR1 $$; printf "%s|" "$VLLM_SWITCH" "$@" >> "server$VLLM_SWITCH"',
}


@pytest.mark.parametrize("finished", [True, False])
def test_servers_start_on_their_nodes_and_the_run_is_told_of_them(tmp_path: Path, finished: bool) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "runs" / "r").mkdir(parents=True)
    if finished:
        (tmp_path / "runs" / "r" / "summary.json").touch()
    for name, content in COMMANDS.items():
        command = tmp_path / "bin" / name
        command.write_text(f"#!/usr/bin/env bash\n{content}\n")
        command.chmod(0o755)
    slurm = {"JOB_NODELIST_HET_GROUP_1": "infer[1-2]", "NTASKS_PER_NODE_HET_GROUP_1": "2", "JOB_ID": "7"}
    slurm |= {"NNODES_HET_GROUP_0": "3", "NTASKS_PER_NODE_HET_GROUP_0": "8"}
    environment = os.environ | {f"SLURM_{name}": value for name, value in slurm.items()}
    environment |= {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "VLLM_BIN": str(tmp_path / "bin")}
    words = ["bash", str(SCRIPT), "r", "--config", "a.yaml"]
    subprocess.run(words, cwd=tmp_path, env=environment, check=True, timeout=60, capture_output=True)
    urls = "http://infer1:8000,http://infer1:8001,http://infer2:8000,http://infer2:8001"
    options = f"--config a.yaml --model.sampler.engine.init_args.urls [{urls}]"
    said = (tmp_path / "said").read_text().splitlines()
    assert said[0] == f"serve {options}"
    assert said[1] == f"fit {options} --name r --ckpt_path last --trainer.num_nodes 3 --trainer.devices 8"
    assert said[2:] == ([] if finished else ["requeued 7"])
    for task in range(1, 5):  # each has survived the signal
        assert (tmp_path / f"server{task}").read_text() == f"{task}|serve|/a model|--port|{task}|"
