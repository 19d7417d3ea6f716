"""Starts an engine and prints how many tokens its KV cache holds: count_kv_cache.py MODEL"""

import sys

from distill.teacher.engine import engine_arguments, start_engine, stop_engine

if __name__ == "__main__":  # vLLM's processes import this file, too
    engine = start_engine(engine_arguments(sys.argv[1], ["--dtype", "bfloat16"]))
    try:
        cache = engine.vllm_config.cache_config
        print(cache.num_gpu_blocks * cache.block_size)
    finally:
        stop_engine(engine)
