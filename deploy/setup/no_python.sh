#!/bin/sh
# Reports what is missing where there is no Python at all to run machine.py, in the same words.
echo "error: this machine lacks what Planwright needs"
packages=""
for tool in git bash; do
    command -v "$tool" >/dev/null || { echo "  - $tool"; packages="$packages $tool"; }
done
minor=3.12
grep -qsE 'VERSION_CODENAME=(bookworm|jammy)' /etc/os-release && minor=3.11
echo "  - Python 3.11 or 3.12 with venv and a shared libpython; name another with make setup PYTHON=/path/to/python"
echo "  fix    apt-get install$packages python$minor python$minor-venv libpython$minor"
echo "  check  make setup"
exit 3
