#!/usr/bin/env bash
# The student's server, the teacher's, and the URL in front of both (serve.py). Ctrl-C ends all.
#   bash serve.sh [any flag of serve.py]
# STUDENT is a merged model, TEACHER the teacher; STUDENT_GPUS and TEACHER_GPUS (such as 0 and 1,2) are theirs. Without a GPU both
# run on the CPU. STUDENT_PORT, TEACHER_PORT, STUDENT_FLAGS and TEACHER_FLAGS (vLLM's), LOG_DIR, PYTHON and ENDS_WITHIN (seconds) override.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python} # a path such as .venv/bin/python needs no activated environment
command -v "$python" >/dev/null || { echo "serve.sh: no $python here; PYTHON names the environment's" >&2 && exit 2; }
for flag; do # --help needs no server
  case $flag in -h | --help | --help[_-]all) exec "$python" "$here/serve.py" "$flag" ;; esac
done
student=${STUDENT:-models/merged} teacher=${TEACHER:-Qwen/Qwen3-30B-A3B-Thinking-2507} logs=${LOG_DIR:-$(mktemp -d)}
ports=("${STUDENT_PORT:-8001}" "${TEACHER_PORT:-8002}") cpu=() names=() groups=() ended=0 code=0 # names: by process
read -ra student_flags <<<"${STUDENT_FLAGS:-}" && read -ra teacher_flags <<<"${TEACHER_FLAGS:---reasoning-parser qwen3}"
if ! nvidia-smi >/dev/null 2>&1; then export VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-2} cpu=(--enforce-eager --block-size 32); fi
trap 'exit 130' INT && trap 'exit 143' TERM
# each is a process group of its own, since vLLM's server has processes below it; while it loads a model it may not end at TERM
trap 'trap "" INT TERM; kill -TERM -- "${groups[@]}" 2>/dev/null || true; late=$((SECONDS + ${ENDS_WITHIN:-15}))
  while [ -n "$(jobs -r)" ] && ((SECONDS < late)); do sleep 0.1; done; kill -KILL -- "${groups[@]}" 2>/dev/null || true' EXIT
server() { # NAME MODEL PORT GPUS FLAG...
  if [ -n "$4" ]; then local -x CUDA_VISIBLE_DEVICES=$4; fi
  setsid "$python" -m vllm.entrypoints.openai.api_server --model "$2" --served-model-name "$1" --host 127.0.0.1 --port "$3" \
    "${cpu[@]}" "${@:5}" >"$logs/$1.log" 2>&1 &
  names[$!]=$1 groups+=("-$!")
}
# wrong flags end all at once, before a model is loaded
setsid "$python" "$here/serve.py" --student_url "http://127.0.0.1:${ports[0]}/v1" --student_name student --student_tokenizer "$student" \
  --teacher_url "http://127.0.0.1:${ports[1]}/v1" --teacher_name teacher --teacher_tokenizer "$teacher" --wait_for_servers 3600 "$@" &
names[$!]=serve.py groups+=("-$!")
server student "$student" "${ports[0]}" "${STUDENT_GPUS:-}" "${student_flags[@]}"
server teacher "$teacher" "${ports[1]}" "${TEACHER_GPUS:-}" "${teacher_flags[@]}"
echo "serve.sh: student $student and teacher $teacher start; their logs are in $logs" >&2
wait -n -p ended || code=$?
if [ "${names[$ended]}" != serve.py ]; then
  tail -n 30 "$logs/${names[$ended]}.log" >&2
  echo "serve.sh: the ${names[$ended]}'s server has ended; its log is $logs/${names[$ended]}.log" >&2
  code=1
fi
exit "$code"
