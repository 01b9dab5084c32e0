"""The commands of `bots-lightning`, a module each, and their parsers."""
