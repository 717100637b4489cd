"""All benchmarks, one after the other.

Runs every script of this folder in a process of its own and forwards ``--quick`` and ``--json``. With ``--json`` the
result is one object for all; each row names its script.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from common import machine

HERE = Path(__file__).resolve().parent
NOT_SCRIPTS = {"run.py", "common.py"}


def scripts() -> list[Path]:
    """Every benchmark of this folder, by name."""
    return sorted(path for path in HERE.glob("*.py") if path.name not in NOT_SCRIPTS and path.name[0] != "_")


def main() -> int:
    """Run them; 1 if a script failed to run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, each script done within a minute")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("only", nargs="*", help="names of scripts to run, without .py (default: all)")
    args = parser.parse_args()
    chosen = [path for path in scripts() if not args.only or path.stem in args.only]
    unknown = set(args.only) - {path.stem for path in chosen}
    if unknown:
        parser.error(f"no benchmark called {', '.join(sorted(unknown))}, there are {_names(scripts())}")
    flags = [flag for flag, given in (("--quick", args.quick), ("--json", args.json)) if given]
    rows: list[dict[str, object]] = []
    failed = []
    for path in chosen:
        if not args.json:
            print(f"== {path.stem} ==", flush=True)
        done = subprocess.run(
            [sys.executable, str(path), *flags], stdout=subprocess.PIPE if args.json else None, text=True, check=False
        )
        if done.returncode:
            failed.append(path)
            print(f"{path.name} ended with code {done.returncode}", file=sys.stderr)
        elif args.json:
            rows += [{"script": path.stem} | row for row in json.loads(done.stdout)["rows"]]
        else:
            print(flush=True)
    if args.json:
        print(json.dumps({"machine": machine(), "rows": rows}, indent=2))
    return 1 if failed else 0


def _names(paths: list[Path]) -> str:
    return ", ".join(path.stem for path in paths)


if __name__ == "__main__":
    raise SystemExit(main())
