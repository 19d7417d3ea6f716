"""A journal as a run of step 1 keeps it, for tests and their programs: opened, filled and closed
without an engine.
"""

from distill.labels.journal import Journal
from distill.locks import OutputLock

RUN = {"model": "m", "temperature": 0.15}
ATTEMPT = {"response": "x</think>en", "prompt_tokens": 9, "cached_tokens": 8, "output_tokens": 3}


def decide(journal, *indices, answer="en"):
    reason = None if answer else "no_answer"
    for index in indices:
        journal.record(index, answer=answer, reason=reason, seconds=1.0, attempts=[ATTEMPT])


def opened(folder, inputs, *shard, run=RUN):
    """The journal of folder/out.jsonl, whose output this process holds until `close`."""
    journal = Journal(folder / "out.jsonl", run, inputs, *shard)
    journal.lock = OutputLock(journal.output, *shard)
    journal.lock.__enter__()
    journal.open()
    return journal


def close(journal):
    journal.file.close()
    journal.lock.__exit__()
