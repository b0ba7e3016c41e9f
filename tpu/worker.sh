#!/usr/bin/env bash
# One worker of a pod: starts, watches and stops its part of the training. `pod.py setup` copies it to ~/pod.
#   worker.sh run COMMAND     in the background; the log, the number of the process and its exit code are in ~/pod
#   worker.sh status [RUN]    one line: worker NUMBER STATE CODE STEP
#   worker.sh stop SECONDS    SIGTERM, and wait until it has saved and ended
set -euo pipefail
pod=$HOME/pod
lock=${LIBTPU_LOCKFILE:-/tmp/libtpu_lockfile}
metadata=${METADATA_URL:-http://metadata.google.internal/computeMetadata/v1/instance/attributes}

attribute() { curl -sf --max-time 10 -H 'Metadata-Flavor: Google' "$metadata/$1"; }

number() { attribute agent-worker-number || echo 0; }

held() {  # whether the process of the file is there and is still this script's, not another with its number
  grep -aqs worker.sh "/proc/$(cat "$pod/pid" 2>/dev/null || echo none)/cmdline"
}

orphaned() {  # whether the command runs on although that process is gone; prints its process group
  local group since
  read -r group since 2>/dev/null <"$pod/group" || return 1
  [ "$since" = "$(cat /proc/sys/kernel/random/boot_id)" ] && kill -0 -- "-$group" 2>/dev/null && echo "$group"
}

alive() { held || orphaned >/dev/null; }

place() {  # which worker this is, of how many, and where the first one is
  local workers first
  PROCESS_ID=$(number)
  workers=$(attribute worker-network-endpoints || echo localhost)
  first=${workers%%,*}  # a host name, or name:id:address
  COORDINATOR=${first##*:}:8476
  PROCESSES=$(awk -F, '{ print NF }' <<<"$workers")
  export COORDINATOR PROCESSES PROCESS_ID
}

hold() {  # runs the command in a process group of its own, passes SIGTERM on, and writes down its exit code
  local code=0 asked=0 before child
  set -m
  bash -c "$1" &
  child=$!
  echo "$child $(cat /proc/sys/kernel/random/boot_id)" >"$pod/group"
  trap 'asked=$((asked + 1)); kill -TERM -- "-$child" 2>/dev/null || true' TERM
  while :; do
    before=$asked code=0
    wait "$child" || code=$?
    [ "$asked" = "$before" ] && break  # else the signal ended the waiting, not the command
  done
  echo "== $(date -u +%FT%TZ) exit code $code"
  echo "$code" >"$pod/exit.new"
  mv "$pod/exit.new" "$pod/exit"
  rm -f "$pod/group"
}

run() {
  if alive; then
    echo "worker $(number): process $(cat "$pod/pid") is training; stop it first (pod.py stop)" >&2
    exit 3
  fi
  # libtpu leaves its lock behind when it is killed, and then refuses to start.
  if [ -e "$lock" ] && command -v fuser >/dev/null && ! sudo fuser -s /dev/accel* /dev/vfio/[0-9]* 2>/dev/null; then
    sudo rm -f "$lock"
  fi
  place
  rm -f "$pod/exit" "$pod/pid" "$pod/group"
  cd "$HOME"
  export PATH=$pod/venv/bin:$PATH
  if [ -d "$HOME/bucket/data" ]; then export JAXNETS_DATA=$HOME/bucket/data; fi
  # Compiled programs outlive the machines: a run that comes back on new ones starts sooner.
  if mountpoint -q "$HOME/bucket" 2>/dev/null; then
    export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$HOME/bucket/jax-cache}
  fi
  # libtpu's own logs fill the small disk of a machine within days.
  export TPU_LOG_DIR=${TPU_LOG_DIR:-disabled}
  echo "== $(date -u +%FT%TZ) worker $PROCESS_ID of $PROCESSES: $1" >>"$pod/log"
  setsid nohup bash "$pod/worker.sh" hold "$1" >>"$pod/log" 2>&1 </dev/null &
  echo $! >"$pod/pid"
  echo "worker $PROCESS_ID: started"
}

status() {
  local state=idle code=- step=- folder
  if alive; then
    state=running
  elif [ -s "$pod/exit" ]; then
    state=ended code=$(cat "$pod/exit")
  elif [ -e "$pod/pid" ]; then
    state=lost  # it left no exit code: the machine started anew, or the process was killed with its shell
  elif [ ! -e "$pod/ready" ]; then
    state=new
  fi
  if [ -n "${1:-}" ]; then
    cd "$HOME"
    for folder in "${1/#\~/$HOME}"/checkpoints/*/manifest.json; do
      folder=$(basename "$(dirname "$folder")")
      if [[ $folder =~ ^[0-9]+$ ]] && { [ "$step" = - ] || [ "$folder" -gt "$step" ]; }; then step=$folder; fi
    done
  fi
  echo "worker $(number) $state $code $step"
}

stop() {
  local waited=0
  if ! alive; then
    echo "worker $(number): nothing runs"
    return
  fi
  if held; then kill -TERM "$(cat "$pod/pid")"; else kill -TERM -- "-$(orphaned)"; fi
  while alive && [ "$waited" -lt "$(($1 * 10))" ]; do
    sleep 0.1
    waited=$((waited + 1))
  done
  if alive; then
    echo "worker $(number): still saving after $1 s; look at the log, or stop again to end it at once" >&2
    exit 4
  fi
  echo "worker $(number): ended with $(cat "$pod/exit" 2>/dev/null || echo 'no exit code')"
}

case ${1:-} in
  run | hold | stop) [ $# = 2 ] || { echo "worker.sh $1 takes one argument" >&2; exit 2; } ;;
  status) ;;
  *) echo "worker.sh run COMMAND | status [RUN] | stop SECONDS; got ${1:-nothing}" >&2; exit 2 ;;
esac
"$@"
