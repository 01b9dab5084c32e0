"""Plain English: words that readers of this field would stop at, and what is written instead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = ("bots_lightning", "callbacks", "configs", "tests")
SUFFIXES = (".py", ".yaml")
FILES = sorted(
    [
        path
        for place in PLACES
        for path in (ROOT / place).rglob("*")
        if path.suffix in SUFFIXES and path != Path(__file__)
    ]
    + [ROOT / "README.md"]
)
# What not to write: what to write.
WORDS = {
    r"judg(?:e|es|ed|ing|ment)\b": "scored, graded, grader",
    r"\bforetell\w*|\bforetold\b": "predict",
    r"\breckon\w*": "estimate, compute",
    r"\boftener\b": "more often",
    r"\blest\b": "to avoid",
    r"\bbut for\b": "except, apart from",
    r"\btakes? over such\b": "restores the state",
    r"\blets? it go\b": "releases it",
    r"\bmemory does not suffice\b|\bmemory did not suffice\b|\bdisk without room\b": "out of memory, disk full",
    r"\btold to go\b": "preemption",
    r"\bits own last words\b": "see its log",
    r"\bfigures\b": "metrics, numbers",
    r"\bpasses over\b": "epochs over",
    r"\bwhole[ _]model\b": "gathered parameters",
    r"\bdivided weights\b|\bdivides_weights\b": "sharded parameters",
    r"\brollouts beside learning\b|\btakes? turns\b": "asynchronous, synchronous",
    r"\bone step ahead\b": "asynchronous (one step off-policy)",
    r"\bcoin flips?\b": "Bernoulli trials",
    r"\"\"\"As (?:it is|before|for \w+)\.\"\"\"": "what the function returns",
}


# Files that must name options as earlier versions called them.
OLD_NAMES = {
    "bots_lightning/commands/flat_layout/contents.py": '"judge", ',
    "tests/commands/test_convert_config.py": "init_args: {judge:",
}


def plain(path: Path) -> str:
    """The text of a file in one line: a phrase may go over the end of a line."""
    text = path.read_text(encoding="utf-8").replace(OLD_NAMES.get(str(path.relative_to(ROOT)), "\0"), "")
    return re.sub(r"\s+#?\s*", " ", text)


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """All files by name."""
    assert len(FILES) > 500
    return {str(path.relative_to(ROOT)): plain(path) for path in FILES}


@pytest.mark.parametrize("word", WORDS)
def test_plain_words(word: str, texts: dict[str, str]) -> None:
    found = {name: match[0] for name, text in texts.items() if (match := re.search(word, text, re.IGNORECASE))}
    assert found == {}, f"write instead: {WORDS[word]}"


@pytest.mark.parametrize(
    "word", ["It is judged.", "no disk without\n    # room", "figures", '"""As it is."""', "But for x"]
)
def test_the_list_finds_them(word: str) -> None:
    text = re.sub(r"\s+#?\s*", " ", word)
    assert any(re.search(pattern, text, re.IGNORECASE) for pattern in WORDS)
