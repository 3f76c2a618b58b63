#!/usr/bin/env bash
# Make the environment of `--neus nerfstudio`: infra/nerfstudio.sh [FOLDER] [PYTHON] [OTHER]
# Its pins conflict with ours (numpy, opencv, protobuf), so it has a folder of its own, by default ~/.cache/img2mesh/nerfstudio.
# OTHER: an environment of the same Python; what it has in the right version, such as torch, is used and not installed again.
# TORCH_FLAGS: options of pip for torch alone, such as --index-url of the CPU builds.
set -euo pipefail

folder="${1:-$HOME/.cache/img2mesh/nerfstudio}"
python="${2:-python3.11}"
other="${3:-}"
pins="$(dirname "$0")/../containers/nerfstudio.txt"

packages_of() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

"$python" -m venv "$folder"
if [ -n "$other" ]; then
  packages_of "$other" >"$(packages_of "$folder")/other.pth" # after its own, which so go first
fi
pip=("$folder/bin/python" -m pip --disable-pip-version-check install --quiet)
# shellcheck disable=SC2086 # several words
"${pip[@]}" ${TORCH_FLAGS:-} torch==2.13.0
"${pip[@]}" --no-deps --requirement "$pins"
"$folder/bin/python" -c 'import nerfstudio.models.neus_facto' 2>/dev/null
echo "nerfstudio is in $folder; other places: export IMG2MESH_NERFSTUDIO=$folder/bin/python"
