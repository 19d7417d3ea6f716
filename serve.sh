#!/usr/bin/env bash
# The student's server, the teacher's, and the URL in front of both (serve.py). Ctrl-C ends all.
#   bash serve.sh [any flag of serve.py]
# STUDENT is a merged model, TEACHER the teacher; STUDENT_GPUS and TEACHER_GPUS (such as 0 and 1,2) are theirs, or else
# each gets the next ones. Without a GPU both run on the CPU. STUDENT_PORT, TEACHER_PORT, STUDENT_FLAGS and TEACHER_FLAGS
# (vLLM's), LOG_DIR, PYTHON and ENDS_WITHIN (seconds) override.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python} # a path such as .venv/bin/python needs no activated environment
if ! command -v "$python" >/dev/null; then
  echo "serve.sh: no $python here; PYTHON names the environment's" >&2
  exit 2
fi
exec "$python" "$here/serve_servers.py" "$@"
