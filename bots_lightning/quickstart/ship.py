"""Makes what the package ships of the quickstart, in ten minutes.

    python -m bots_lightning.quickstart.ship configs/quickstart.yaml configs/reasoning_gym.yaml

That is: the configs' policies, the quickstart's references with their pass rates on its pool, and a policy of fewer
steps for the benchmark of regimes. What this project reports of them was measured with the files that are there: make
them anew only if tasks or model change, and measure again.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser

from bots_lightning.policy import PretrainedSource
from bots_lightning.quickstart.cache import SHIPPED, cache_root
from bots_lightning.quickstart.tasks import QuickstartTasks
from bots_lightning.quickstart.warm_start import STRONG, WEAK, WarmStart

WEAK_START = WarmStart(policy_steps=1000)  # of which the references are not shipped


def policy_of(config: Path) -> PretrainedSource:
    """The source of a config's policy.

    Args:
        config: with `model.policy.pretrained`.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--pretrained", type=PretrainedSource)
    given = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["policy"]["pretrained"]
    source: PretrainedSource = parser.instantiate_classes(parser.parse_object({"pretrained": given})).pretrained
    return source


def ship(configs: list[Path], destination: Path) -> None:
    """Makes everything anew, in a cache of its own.

    Args:
        configs: whose policies are shipped.
        destination: the folder that is replaced.
    """
    with tempfile.TemporaryDirectory() as cache:
        os.environ["BOTS_LIGHTNING_CACHE"] = cache
        for config in configs:
            policy_of(config).prepare()
        QuickstartTasks().load()
        weak_start = Path(WEAK_START.prepare()).parent
        for name in (WEAK, STRONG):
            shutil.rmtree(weak_start / name)
        shutil.rmtree(destination, ignore_errors=True)
        shutil.copytree(cache_root(), destination, ignore=shutil.ignore_patterns("*.lock"))
    for path in (destination, *destination.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


if __name__ == "__main__":
    ship([Path(each) for each in sys.argv[1:]], SHIPPED)
