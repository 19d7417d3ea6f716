#!/usr/bin/env bash
# Distil a prompt on a machine without a GPU: environment, tiny pair, the three steps, the report.
#   bash quickstart.sh
# VENV names the virtual environment, PYTHON its Python, OUT where data and adapter go. Each stage says how long it took.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here"
venv=${VENV:-$here/.venv} out=${OUT:-$here}
data=$out/data/tiny.jsonl
adapter=$out/models/tiny-distilled
SECONDS=0

begun=0
stage() { # TITLE WORK: says how long the last stage took, and what is done in this one
  if [ -n "${title:-}" ]; then echo "$title: $((SECONDS - begun)) s"; fi
  title=$1 begun=$SECONDS
  if [ -n "$title" ]; then echo "$title: $2 ..."; fi
}

stage "environment in $venv" "installs the libraries of requirements/cpu.txt, some minutes the first time"
bash requirements/install_cpu.sh "$venv"
installation=$SECONDS
export PATH=$venv/bin:$PATH PYTHON=$venv/bin/python # which the wrapper of step 2 takes
export OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0 # idle threads sleep instead of slowing the other process down

stage "tiny pair" "models/tiny-thinking and models/tiny-instruct, copied from tests/pair if task and sentences fit"
python tests/tiny_pair.py

stage "step 1" "the teacher's engine starts, then it labels 2,101 sentences"
python create_data.py --model_name models/tiny-thinking --output_file "$data" --max_tokens 128 --overwrite

stage "step 2" "the libraries are loaded, then the student learns the labels, but for a fifth kept for calibration"
bash train_trl.sh models/tiny-instruct "$adapter" "$data" --config configs/tiny.yaml --calibration_fraction 0.2 --overwrite true

stage "step 3" "an engine for each of teacher, base student and distilled student, with 420 held-out rows each"
result=$(python evaluate.py --teacher_model models/tiny-thinking --student_model models/tiny-instruct --adapter "$adapter" --max_tokens 128)
stage ""
# the last line is evaluate.py's JSON object, whose seconds become those of all stages
all="\"seconds\": $SECONDS, \"installation_seconds\": $installation}"
printf '%s\n' "$result" | sed "\$s/\"seconds\": [0-9.]*}\$/$all/"
