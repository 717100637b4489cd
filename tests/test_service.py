"""The systemd unit in contrib/: systemd itself reads it, as it lies there and with either credential line in use."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from quidnunc.peer.passphrase import CREDENTIAL

UNIT = Path(__file__).resolve().parent.parent / "contrib" / "quidnunc.service"
PROGRAM = "/opt/quidnunc/bin/quidnunc"


@pytest.mark.parametrize("used", ["", "LoadCredential=", "LoadCredentialEncrypted="])
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path, used: str) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    text = UNIT.read_text()
    assert f"ExecStart={PROGRAM} " in text
    if used:
        assert text.count(f"\n#{used}{CREDENTIAL}:/") == 1
        text = text.replace(f"\n#{used}", f"\n{used}")
    # The program and its user need not exist on this machine.
    text = text.replace(f"ExecStart={PROGRAM}", f"ExecStart={sys.executable}").replace("User=quidnunc", "User=root")
    path = tmp_path / "quidnunc.service"
    path.write_text(text)
    done = subprocess.run([analyze, "verify", "--man=no", str(path)], capture_output=True, text=True, check=False)
    # Keys of systemd 254, without which older ones restart at one pace, as the unit says.
    later = ("'RestartSteps'", "'RestartMaxDelaySec'")
    complaints = [line for line in done.stderr.splitlines() if not any(key in line for key in later)]
    assert (complaints, done.returncode) == ([], 0)
