#!/usr/bin/env bash
# Make the environment of `--neus nerfstudio`: infra/nerfstudio.sh [FOLDER] [PYTHON]
# Its pins conflict with ours (numpy, opencv, protobuf), so it has a folder of its own, by default ~/.cache/img2mesh/nerfstudio.
# TORCH_FLAGS: options of pip for torch alone, such as --index-url of the CPU builds.
set -euo pipefail

folder="${1:-$HOME/.cache/img2mesh/nerfstudio}"
python="${2:-python3.11}"
pins="$(dirname "$0")/../containers/nerfstudio.txt"

"$python" -m venv "$folder"
pip=("$folder/bin/python" -m pip --disable-pip-version-check install --quiet)
# shellcheck disable=SC2086 # several words
"${pip[@]}" ${TORCH_FLAGS:-} torch==2.13.0
"${pip[@]}" --no-deps --requirement "$pins"
"$folder/bin/python" -c 'import nerfstudio.models.neus_facto' 2>/dev/null
echo "nerfstudio is in $folder; other places: export IMG2MESH_NERFSTUDIO=$folder/bin/python"
