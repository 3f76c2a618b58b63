#!/usr/bin/env bash
# Make sure that the shared libraries which open3d and pymeshlab load are there: installed as root on Debian and Ubuntu, else named.
set -euo pipefail

declare -A package_of=(
  [libusb-1.0.so.0]=libusb-1.0-0
  [libEGL.so.1]=libegl1
  [libGL.so.1]=libgl1
  [libOpenGL.so.0]=libopengl0
  [libX11.so.6]=libx11-6
  [libgomp.so.1]=libgomp1
)

ldconfig=$(PATH="$PATH:/usr/sbin:/sbin" command -v ldconfig) || exit 0 # no Linux with glibc: the wheels bring their own
known=$("$ldconfig" -p)
missing=()
for library in "${!package_of[@]}"; do
  grep -qF "$library " <<<"$known" || missing+=("${package_of[$library]}")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update
  exec apt-get -qq install --yes --no-install-recommends "${missing[@]}" >/dev/null
fi
echo "open3d and pymeshlab need system libraries that are missing. Install them, then run make again: sudo apt-get install ${missing[*]}" >&2
exit 1
