#!/usr/bin/env bash
# Prepares one worker of a pod; run on all of them at once, since the last part needs every worker.
#   setup.sh PACKAGE CHIPS WORKERS [BUCKET]
# What is installed is written in ~/pod/ready: the same again installs nothing. The bucket and the chips are always checked.
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "setup.sh PACKAGE CHIPS WORKERS [BUCKET]; got $# arguments" >&2
  exit 2
fi
package=$1 chips=$2 workers=$3 bucket=${4:-}
pod=$HOME/pod
cd "$HOME"
mkdir -p "$pod"

if grep -aqs worker.sh "/proc/$(cat "$pod/pid" 2>/dev/null || echo none)/cmdline"; then
  echo "setup.sh: training runs here, so nothing is changed; stop it first (pod.py stop)" >&2
  exit 3
fi

find_python() {  # the first that is new enough
  local name
  for name in python3.13 python3.12 python3.11 python3; do
    if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  return 1
}

make_venv() {  # the images have Python 3.10, and jaxnets needs 3.11
  local python
  rm -rf "$pod/venv"
  if python=$(find_python); then
    "$python" -m venv "$pod/venv"
  else
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --seed --python 3.12 "$pod/venv"
  fi
}

mount_bucket() {
  if mountpoint -q "$HOME/bucket"; then return; fi
  if ! command -v gcsfuse >/dev/null; then
    local key=/usr/share/keyrings/cloud.google.asc
    curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$key" >/dev/null
    echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -c -s) main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    sudo apt-get -qq update
    sudo apt-get -qq install -y gcsfuse
  fi
  mkdir -p "$HOME/bucket"
  # No memory of names and sizes, nor of names that were not there: a worker must see at once what another has written.
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs 0 --metadata-cache-negative-ttl-secs 0 "$bucket" "$HOME/bucket"
}

wheel=${package%%\[*}
stamp="$package $(if [ -f "$wheel" ]; then sha256sum <"$wheel"; fi)"
if [ "$(cat "$pod/ready" 2>/dev/null)" != "$stamp" ]; then
  rm -f "$pod/ready"
  make_venv
  "$pod/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$package"
  echo "$stamp" >"$pod/ready"
fi
if [ -n "$bucket" ]; then mount_bucket; fi

check='
import sys
import jax
if int(sys.argv[2]) > 1:
    jax.distributed.initialize()
here, wanted = jax.device_count(), int(sys.argv[1])
sys.exit(None if here == wanted else f"setup.sh: JAX sees {here} devices, and this pod has {wanted} chips; check the runtime version")
'
timeout 300 "$pod/venv/bin/python" -c "$check" "$chips" "$workers"
echo "$(hostname): ready, $chips chips"
