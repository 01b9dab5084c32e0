"""`python -m bots_lightning` is `bots-lightning`."""

from bots_lightning.cli import run

if __name__ == "__main__":
    run()
