#!/usr/bin/env bash
# What the code of an older commit writes, in small. Run it in the root of a worktree of that commit, in the environment
# of quickstart.sh, with the tiny pair under models/:
#   bash OLD_FILES/make.sh OLD_FILES NEW
# OLD_FILES holds inputs.txt and heldout.jsonl, and NEW, which must not exist, gets the directories that are made from
# them. All paths are relative, so that what is written names no machine.
set -euo pipefail
fixture=$(realpath "$1")
new=$2
if [ -e "$new" ]; then
  echo "make.sh: $new exists; what is made takes nothing's place" >&2
  exit 2
fi
export OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0
here=models/old # step 2 records its output directory, step 3 the adapter
rm -rf "$here"
mkdir -p "$here"/{half,sharded,finished,teacher}
cp "$fixture/inputs.txt" "$fixture/heldout.jsonl" "$here"

label=(python create_data.py --model_name models/tiny-thinking --task example-data/language_classification.yaml)
# the last input is too long for this context; one row at a time leaves the time to stop in the middle
label+=(--max_model_len 2800)
slow=(--max_num_seqs 1)

stop_when() { # CONDITION COMMAND...: start the command, and end it as the out-of-memory killer does
  local condition=$1
  shift
  "$@" &
  until eval "$condition"; do
    if ! kill -0 $! 2>/dev/null; then
      echo "make.sh: ended before it was stopped: $*" >&2
      exit 1
    fi
    sleep 0.002
  done
  kill -KILL $!
  wait $! || true
}
has_lines() { [ -f "$1" ] && [ "$(wc -l <"$1")" -ge "$2" ]; }

inputs=(--input_file "$here/inputs.txt")
half=$here/half/labels.jsonl
stop_when "has_lines $half.trace.jsonl 20" "${label[@]}" "${inputs[@]}" --output_file "$half" "${slow[@]}"
truncate -s -25 "$half.trace.jsonl" # torn, as a power failure leaves it

shards=$here/sharded/labels.jsonl
"${label[@]}" "${inputs[@]}" --output_file "$shards" --shard 0/2
stop_when "has_lines $shards.trace-1of2.jsonl 8" \
  "${label[@]}" "${inputs[@]}" --output_file "$shards" --shard 1/2 "${slow[@]}"
"${label[@]}" "${inputs[@]}" --output_file "$shards" --shard 1/2 # a second header, and nothing is missing

"${label[@]}" "${inputs[@]}" --output_file "$here/finished/labels.jsonl"
"${label[@]}" --input_file "$here/heldout.jsonl" --output_file "$here/teacher/heldout.jsonl"

train=(--config configs/tiny.yaml --lora_rank 1 --lora_alpha 1 --per_device_train_batch_size 4 --logging_steps 1)
stop_when "[ -f $here/stopped/checkpoint-4/complete.json ]" \
  bash train_trl.sh models/tiny-instruct "$here/stopped" "$here/finished/labels.jsonl" "${train[@]}" \
  --max_steps 12 --save_strategy steps --save_steps 4
bash train_trl.sh models/tiny-instruct "$here/adapter" "$here/finished/labels.jsonl" "${train[@]}" \
  --max_steps 6 --save_strategy no
python evaluate.py --teacher_model models/tiny-thinking --student_model models/tiny-instruct \
  --adapter "$here/adapter" --test_file "$here/heldout.jsonl" --task example-data/language_classification.yaml \
  --max_tokens 256 --latency_rows 3

# large, or of other projects, and nothing reads them
rm "$here"/adapter/report/*.png "$here"/adapter/report/report.{html,md} "$here"/adapter/training_args.bin
rm "$here"/stopped/README.md "$here"/stopped/checkpoint-4/{README.md,training_args.bin}
sed -i -E 's/"(README.md|training_args.bin)": [0-9]+, //g' "$here/stopped/checkpoint-4/complete.json"
mkdir -p "$new"
cp -r "$here"/{half,sharded,finished,teacher,stopped,adapter} "$new"
