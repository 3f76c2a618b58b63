#!/usr/bin/env bash
# Print the first Python that img2mesh runs on and that can make a virtual environment: infra/python.sh [CANDIDATE...]
set -euo pipefail

suits='import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))'
[ "$#" -gt 0 ] || set -- python3.11 python3.12 python3
for candidate in "$@"; do
  if command -v "$candidate" >/dev/null && "$candidate" -c "$suits" 2>/dev/null; then
    command -v "$candidate"
    exit 0
  fi
done
echo "img2mesh needs Python 3.11 or 3.12 with venv; none of these is one: $*." \
  "Install it (Debian, Ubuntu: apt-get install python3 python3-venv), or name it: make PYTHON=/path/to/python3.11" >&2
exit 1
