"""A private training step beside plain SGD and Opacus: processor time and peak memory, one thread, own processes.

Models: mlp 64-64-10, wide 784-256-10, cnn (two convolutions, 20,490 parameters); batch 64 and 512. Opacus is
installed by name in a virtual environment of its own and borrows torch from this one; each of its modes runs, the best
is compared. Our step draws its noise from ChaCha20; Opacus in this comparison has torch's own generator. Processor
time, because what else runs on the machine changes it less than the clock's. The rows "without noise" show what
clipping alone takes. --quick leaves out the wide model and takes fewer steps.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from common import Row, main

CHILD = Path(__file__).with_name("_dpsgd_step.py")
OPACUS = ("opacus==1.6.0", "opt_einsum==3.4.0")
MODES = ("hooks", "ew", "functorch", "ghost")
BATCHES = (64, 512)
STEPS = {"mlp": 200, "wide": 60, "cnn": 12}
QUICK_STEPS = {"mlp": 60, "cnn": 5}
PLAIN_AT_MOST = {"mlp": 1.6, "wide": 1.6}
"""Our step in plain steps."""
OPACUS_AT_LEAST = {"mlp": 2.0, "wide": 2.0, "cnn": 1.0}
"""How many times faster than Opacus's best mode ours must be."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

Measured = dict[str, float]


def install(home: Path) -> tuple[str, str]:
    """The interpreter that has Opacus, or why there is none."""
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    site = next((home / "lib").glob("python*/site-packages"))
    (site / "borrowed.pth").write_text("\n".join(part for part in sys.path if part.endswith("site-packages")) + "\n")
    command = [python, "-m", "pip", "install", "--quiet", "--no-deps", *OPACUS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return "", "opacus could not be installed"
    probe = subprocess.run([python, "-c", "import opacus"], capture_output=True, text=True, check=False)
    return (str(python), "") if probe.returncode == 0 else ("", f"opacus: {_last(probe.stderr)}")


def step(python: str, engine: str, model: str, batch: int, steps: int) -> tuple[Measured | None, str]:
    """One measurement, or why there is none."""
    command = [python, str(CHILD), engine, model, str(batch), str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | ONE_THREAD)
    if done.returncode:
        return None, f"{engine}: {_last(done.stderr)}"
    found: Measured = json.loads(done.stdout)
    return found, ""


def cell(model: str, batch: int, steps: int, python: str, why: str) -> list[Row]:
    """All rows of one model and batch size."""
    name, rows = f"{model}, batch {batch}", []
    found: dict[str, Measured] = {}
    for engine in ("plain", "quidnunc", "quidnunc-clip"):
        measured, wrong = step(sys.executable, engine, model, batch, steps)
        if measured is None:
            return [Row(f"{name}: {engine}", None, "ms", note=wrong)]
        found[engine] = measured
    plain, private, clipped = found["plain"], found["quidnunc"], found["quidnunc-clip"]
    shown = f"{private['ms']:.3g} ms, {clipped['ms']:.3g} without noise, plain {plain['ms']:.3g}"
    most = PLAIN_AT_MOST.get(model)
    rows.append(Row(f"{name}: step", private["ms"] / plain["ms"], "x plain", at_most=most, note=shown))
    rows.append(Row(f"{name}: without noise", clipped["ms"] / plain["ms"], "x plain"))
    rows.append(Row(f"{name}: memory", private["mib"], "MiB", "plain", plain["mib"]))
    theirs: dict[str, Measured] = {}
    for mode in MODES if python else ():
        measured, wrong = step(python, f"opacus-{mode}", model, batch, steps)
        if measured is None:
            rows.append(Row(f"{name}: opacus {mode}", None, "ms", note=wrong))
        else:
            theirs[mode] = measured
    least = OPACUS_AT_LEAST[model]
    if not theirs:
        rows.append(Row(f"{name}: faster than opacus", None, "x", at_least=least, note=why or "no mode ran"))
        return rows
    best = min(theirs, key=lambda mode: theirs[mode]["ms"])
    note = ", ".join(f"{mode} {each['ms']:.3g} ms {each['mib']:.3g} MiB" for mode, each in theirs.items())
    rows.append(
        Row(f"{name}: opacus {best} / ours", theirs[best]["ms"] / private["ms"], "x", at_least=least, note=note)
    )
    return rows


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:160] if lines else "no reason given"


def measure(quick: bool) -> list[Row]:
    """Every model at every batch size."""
    wanted = QUICK_STEPS if quick else STEPS
    with tempfile.TemporaryDirectory() as folder:
        python, why = install(Path(folder) / "opacus")
        return [row for model, steps in wanted.items() for b in BATCHES for row in cell(model, b, steps, python, why)]


if __name__ == "__main__":
    raise SystemExit(main(__doc__, measure))
