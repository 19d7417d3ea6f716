"""Token ids that vLLM's greedy decoding adds to each prompt: ask_vllm.py MODEL FILE, which holds a
JSON list of prompts' token ids

A process for each engine. The last line of stdout is the JSON list of answers.
"""

import json
import sys
from pathlib import Path

from distill.teacher.base import Prompt, Request, Sampling
from distill.teacher.engine import engine_arguments, start_engine, stop_engine
from distill.teacher.vllm_engine import VLLMTeacher

if __name__ == "__main__":  # vLLM's processes import this file, too
    prompts = json.loads(Path(sys.argv[2]).read_text())
    engine = start_engine(engine_arguments(sys.argv[1], ["--dtype", "float32"]))
    sampling = Sampling(temperature=0.0, max_tokens=12)
    requests = [Request(i, Prompt(ids, len(ids)), sampling) for i, ids in enumerate(prompts)]
    completions = dict(VLLMTeacher(engine).ask(requests))
    stop_engine(engine)
    print(json.dumps([completions[i].token_ids for i in range(len(prompts))]))
