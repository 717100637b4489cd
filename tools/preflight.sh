#!/bin/sh
# Says in one line what a fresh machine lacks before anything is downloaded.
python=${1:-python3}
if ! command -v "$python" >/dev/null 2>&1; then
    echo "error: no $python on this machine"
    echo "hint: Debian/Ubuntu: apt-get install python3 python3-venv   Fedora: dnf install python3   macOS: brew install python@3.12"
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 13)))'; then
    echo "error: $("$python" --version 2>&1) found, Python 3.11 to 3.13 is needed"
    echo "hint: install one and name it: make demo PYTHON=python3.12"
    exit 1
fi
if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "error: $python cannot make virtual environments (no ensurepip)"
    echo "hint: Debian/Ubuntu: apt-get install python$version-venv"
    exit 1
fi
