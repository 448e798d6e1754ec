"""Every command in the README is run, in its order, in one folder, by the shell a reader would use.

The main job runs whole, on the real embedded model and with the recorded words of an LLM, which belong to its sizes;
the commands after it look at what it stored. ``scripts/test`` is the command that runs this file.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _commands() -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_the_readme_starts_with_two_sentences_and_two_commands():
    first = README.split("## Start")[0].split("\n", 1)[1].strip()
    assert len(re.findall(r"\.(?=\s|$)", first)) == 2
    assert _commands()[:2] == ["scripts/quickstart", "scripts/test"]


def test_continuous_integration_runs_the_readmes_test_command():
    assert re.search(r"^scripts/test$", (ROOT / ".ci" / "run").read_text(), flags=re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_of_the_readme_succeeds(tmp_path: Path, request: pytest.FixtureRequest):
    for made in ("quickstart.zip", "report.html"):
        request.addfinalizer((ROOT / made).unlink)
    environment = {
        **os.environ,
        "CDNER_STORE": str(tmp_path / "cdner.duckdb"),
        "CDNER_QUIET": "1",
        # The one size that no recorded answer depends on; the options of every verb read them from the environment.
        "CDNER_RUN_OVERRIDES": "train_augmented.epochs=1",
    }
    for command in _commands():
        if command == "scripts/test":
            continue
        done = subprocess.run(
            ["bash", "-euc", command],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip(), f"{command} printed nothing"
