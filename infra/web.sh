#!/usr/bin/env bash
# What the browser and validator tests run, into the folder given: npm packages and 3dqa; Chromium and node from the system.
set -euo pipefail

target=${1:?"usage: web.sh FOLDER"}
here=$(cd "$(dirname "$0")/.." && pwd)

missing=()
command -v chromium >/dev/null || missing+=(chromium)
command -v npm >/dev/null || missing+=(nodejs npm)
if [ "${#missing[@]}" -gt 0 ]; then
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "the browser tests need: ${missing[*]}; install them, then run make web again" >&2
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update
  apt-get -qq install --yes --no-install-recommends "${missing[@]}" >/dev/null
fi

mkdir -p "$target"
cp "$here/tests/web/package.json" "$target"
npm install --prefix "$target" --no-audit --no-fund --loglevel=error
# Its licence lets everybody run it and nobody pass it on: it has an environment of its own.
"$("$here/infra/python.sh")" -m venv "$target/3dqa"
"$target/3dqa/bin/pip" install --quiet --disable-pip-version-check 3dqa==1.0.0
