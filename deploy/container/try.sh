#!/usr/bin/env bash
# try.sh IMAGE: does the image do what the manifests count on? Size, every service by its name, a
# wrong environment refused with one line, and a mesh of five containers that answers a completion:
# without rights, user 65532, read-only root, the limits of deploy/k8s/base, no network but a loopback
# that they share. Needs root, podman, runc, curl, nsenter; ends with exit code 1 and what failed.
set -euo pipefail
image=$1
base=$(cd "$(dirname "${BASH_SOURCE[0]}")/../k8s/base" && pwd)
size_max_mb=200
work=$(mktemp -d)
names=()
# podman's own limits need a right that root inside a container or sandbox may lack.
printf '[containers]\ndefault_ulimits = []\n' >"$work/containers.conf"
export CONTAINERS_CONF=$work/containers.conf

fail() {
  printf 'FAILED: %s\n' "$*" >&2
  exit 1
}

# Ends what was started; after a failure with the last words of each.
finish() {
  local code=$? name
  for name in "${names[@]}"; do
    [[ $code -eq 0 ]] || podman logs "$name" 2>&1 | tail -n 3 | sed "s/^/$name: /" >&2
    podman rm --force --time 0 "$name" >/dev/null 2>&1 || true
  done
  rm -rf "$work"
}
trap finish EXIT

# As the pods run: deploy/k8s/base.
contained() {
  podman --runtime runc run --read-only --cap-drop all --security-opt no-new-privileges "$@"
}

# refused CODE TEXT ARGUMENTS…: the container ends with this exit code and one line that has TEXT.
refused() {
  local code=0 expected=$1 text=$2
  shift 2
  contained --rm --network none "$@" >"$work/out" 2>&1 || code=$?
  [[ $code -eq $expected ]] || fail "exit code $code, not $expected, of: $* ($(cat "$work/out"))"
  [[ $(wc -l <"$work/out") -eq 1 ]] || fail "not one line of: $* ($(cat "$work/out"))"
  grep -qF -- "$text" "$work/out" || fail "no '$text' of: $* ($(cat "$work/out"))"
  printf '  exit %s: %s\n' "$code" "$(cat "$work/out")"
}

# The limits of a service's pod, as podman's flags: '2' and 1Gi are --cpus=2 --memory=1g.
limits_of() {
  sed -n "s/^ *limits: {cpu: '\([0-9]*\)', memory: \([0-9]*\)\([MG]\)i}$/--cpus=\1 --memory=\2\3/p" \
    "$base/$1.yaml"
}

# start SERVICE NAME FLAGS…: the first of all has the network, the others join it.
start() {
  local service=$1 name=fulgur-try-$$-$2 network=none limits
  shift 2
  read -ra limits <<<"$(limits_of "$service")"
  [[ ${#limits[@]} -eq 2 ]] || fail "no limits in $base/$service.yaml"
  [[ ${#names[@]} -eq 0 ]] || network=container:${names[0]}
  contained --detach --network "$network" --name "$name" "${limits[@]}" "$image" "$service" \
    --model=/opt/fulgur/models/fulgur-tiny --log-level=info "$@" >/dev/null
  names+=("$name")
}

# Peak memory of a container and what it may have, in MiB (cgroup version 1 or 2).
memory_of() {
  local pid group
  pid=$(podman inspect --format '{{.State.Pid}}' "$1")
  group=$(sed -n 's/^[0-9]*:memory://p' "/proc/$pid/cgroup")
  if [[ -n $group ]]; then
    group=/sys/fs/cgroup/memory$group
    echo "$(($(<"$group/memory.max_usage_in_bytes") >> 20)) of $(($(<"$group/memory.limit_in_bytes") >> 20))"
  else
    group=/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$pid/cgroup")
    echo "$(($(<"$group/memory.peak") >> 20)) of $(($(<"$group/memory.max") >> 20))"
  fi
}

inside() { # a program of this machine in their network
  nsenter --net --target "$(podman inspect --format '{{.State.Pid}}' "${names[0]}")" "$@"
}

# ready NAME PORT: waits until it says that it can serve, for two minutes at most.
ready() {
  local name=fulgur-try-$$-$1
  for ((tries = 0; tries < 600; ++tries)); do
    [[ $(podman inspect --format '{{.State.Running}}' "$name") == true ]] || fail "$name has ended"
    ! inside curl -fs -o "$work/ready" "http://127.0.0.1:$2/readyz" || return 0
    sleep 0.2
  done
  fail "$name is not ready: $(inside curl -s "http://127.0.0.1:$2/readyz")"
}

bytes=$(podman image inspect --format '{{.Size}}' "$image")
echo "size: $((bytes / 1000000)) MB"
((bytes <= size_max_mb * 1000000)) || fail "more than $size_max_mb MB"
user=$(podman image inspect --format '{{.Config.User}}' "$image")
[[ $user == 65532:65532 ]] || fail "runs as '$user'"

echo "every service by its name:"
for service in router attention expert orchestrator; do
  contained --rm --network none "$image" "$service" --help >"$work/out" || fail "$service --help"
  printf '  %s: %s\n' "$service" "$(head -n 1 "$work/out")"
done

echo "refused:"
model=--model=/opt/fulgur/models/fulgur-tiny
orchestrator=--orchestrator=tcp://127.0.0.1:7000
refused 2 "'worker' is no service" "$image" worker
refused 2 "FULGUR_MODLE is no setting" --env FULGUR_MODLE=/model "$image" router
refused 2 "that variable is not set" "$image" expert '--model=$(FULGUR_MODEL)'
refused 2 "the value is empty" "$image" attention --kv-tokens=
refused 2 "--orchestrator is required" "$image" router $model
refused 1 "/model" "$image" expert --name=e --listen=tcp://127.0.0.1:7100 $orchestrator --model=/model
refused 2 "cannot read the key file" "$image" orchestrator --listen=tcp://127.0.0.1:7000 $model \
  --curve-key-file=/run/secrets/fulgur-curve/curve.key

start orchestrator orchestrator --listen=tcp://127.0.0.1:7000 --admin=127.0.0.1:9000 --expect-experts=2
start attention attention-0 --name=attention-0 --listen=tcp://127.0.0.1:7200 $orchestrator \
  --admin=127.0.0.1:9001 --transport=zmq
for at in 0 1; do
  start expert expert-$at --name=expert-$at --listen=tcp://127.0.0.1:710$at $orchestrator \
    --admin=127.0.0.1:901$at --transport=zmq
done
start router router-0 --name=router-0 --host=127.0.0.1 --port=8000 --admin=127.0.0.1:9002 $orchestrator
for member in orchestrator:9000 attention-0:9001 expert-0:9010 expert-1:9011 router-0:9002; do
  ready "${member%:*}" "${member#*:}"
done
inside curl -fsS -o "$work/answer" -H 'Content-Type: application/json' \
  -d '{"prompt": "Once upon a time", "max_tokens": 24, "temperature": 0}' \
  http://127.0.0.1:8000/v1/completions || fail "no completion"
echo "five containers answer: $(cat "$work/answer")"
grep -q '"completion_tokens":24' "$work/answer" || fail "not 24 tokens"

for name in "${names[@]}"; do
  echo "  ${name#fulgur-try-*-}: $(memory_of "$name") MiB at most"
done

# In the order in which an operator would end them.
for name in "${names[4]}" "${names[1]}" "${names[3]}" "${names[2]}" "${names[0]}"; do
  podman stop --time 60 "$name" >/dev/null
  code=$(podman inspect --format '{{.State.ExitCode}}' "$name")
  [[ $code -eq 0 ]] || fail "$name ended with $code under SIGTERM"
done
echo "each ended with 0 under SIGTERM"
