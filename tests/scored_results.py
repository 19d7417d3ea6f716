"""Systems and a result as evaluate.py keeps it, for tests."""

from distill.evaluation.systems import System

STUDENT = System("student", "some/base", False, False, 0.0, 64, 50, 2)
TEACHER = System("teacher", "some/teacher", True, True, 0.15, 4096, 50, 0)
RESULT = {
    "answers": ["es", None],
    "responses": ["es", "\u4f60 \U0001f600"],
    "prompt_tokens": [10, 12],
    "cached_tokens": [0, 4],
    "output_tokens": [2, 3],
    "tokens": [[[1, 2], [3]], [[4], [5, 6]]],
    "rows_per_second": 1 / 3,
    "latencies": [0.1, 1e-7],
    "served_as": None,
    "instead_of": "",
    "dtype": "float32",
    "machine": "2 cores of X",
    "date": "2026-01-31",
    "commit": "abc1234",
}
