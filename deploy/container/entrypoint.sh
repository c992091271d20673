#!/bin/sh
# Becomes the service named by the first argument; the rest are its flags. A setting that nothing
# reads, or a flag whose variable is not set, ends it with one line instead of a mesh that is not the
# one that was meant.
settings=' FULGUR_MODEL FULGUR_SERVED_MODEL_NAME FULGUR_LOG_LEVEL FULGUR_BACKEND FULGUR_ISA
 FULGUR_ACTIVATIONS FULGUR_EXPERT_WEIGHTS FULGUR_REPLICAS
 FULGUR_MIN_EXPERTS FULGUR_MAX_EXPERTS FULGUR_MIN_ATTENTION FULGUR_MAX_ATTENTION FULGUR_BUSY_TARGET
 FULGUR_SHRINK_SECONDS FULGUR_EXPERT_CAPACITY_BYTES FULGUR_MAX_SEQUENCES FULGUR_KV_TOKENS
 FULGUR_MICRO_BATCHES FULGUR_MAX_CONTEXT FULGUR_MAX_REQUESTS FULGUR_MAX_BODY_BYTES
 FULGUR_DRAIN_SECONDS FULGUR_OTLP_ENDPOINT FULGUR_TRACE_SAMPLE '

refuse() {
  echo "fulgur: $*" >&2
  exit 2
}

check_settings() {
  for name in $(env | sed -n 's/^\(FULGUR_[A-Z0-9_]*\)=.*/\1/p'); do
    case $name in
      *_SERVICE_HOST | *_SERVICE_PORT* | *_PORT | *_PORT_*) continue ;; # Kubernetes' links to Services
    esac
    case " $(echo $settings) " in
      *" $name "*) ;;
      *) refuse "$name is no setting (misspelt? there are:$(printf ' %s' $settings))" ;;
    esac
  done
}

check_flags() {
  for argument in "$@"; do
    case $argument in
      *'$('*')'*) refuse "$argument: that variable is not set (is it in fulgur-config?)" ;;
      --*=) refuse "$argument: the value is empty" ;;
    esac
  done
}

case ${1:-} in
  router | attention | expert | orchestrator)
    service=$1
    shift
    check_settings
    check_flags "$@"
    exec "${0%/*}/fulgur-$service" "$@"
    ;;
  --help)
    echo "usage: router|attention|expert|orchestrator [FLAGS]   (FLAGS: SERVICE --help)"
    ;;
  *)
    refuse "'${1:-}' is no service: router, attention, expert or orchestrator"
    ;;
esac
