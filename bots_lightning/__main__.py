"""`python -m bots_lightning` is `bots-lightning`."""

from bots_lightning.cli import main

if __name__ == "__main__":
    main()
