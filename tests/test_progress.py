import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("hidden", [False, True])
def test_the_environment_hides_the_bars_of_long_work(repository, hidden, tmp_path):
    code = "from test_loop import run; from pathlib import Path; run(Path(sys.argv[1]), 3)"
    environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    environment |= {"TQDM_DISABLE": "1"} if hidden else {}
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, 'tests'); {code}", tmp_path / "summing"]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=True)
    assert ("summing: 100%" in done.stderr) == (not hidden)
