"""Asking the teacher: attempts, retries, votes, and what the journal keeps of each row."""

import time
from collections import Counter, deque

from distill.guard import is_guarded
from distill.labels.journal import Journal
from distill.model_tokenizer import ids_or_reason
from distill.same_text import comparable
from distill.task import NoAnswer, Task
from distill.teacher.vllm_engine import Stream
from distill.tokens import think_end_id

# What Qwen3's thinking model card recommends; a row that failed is asked again with it.
RETRY_SAMPLING = {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
# Tokens that come again and again in a loop; every shorter period has a multiple in this range.
LOOP = {"min_pattern_size": 32, "max_pattern_size": 63}
TOGETHER = 64  # rows that are tokenised at a time


def batches(rows):
    """Lists of up to TOGETHER rows; a None among the rows ends a list at once, which may then be empty."""
    batch = []
    for row in rows:
        if row is not None:
            batch.append(row)
        if row is None or len(batch) == TOGETHER:
            yield batch
            batch = []
    yield batch


def label_rows(args, engine, task: Task, rows):
    """Ask for each (index, messages) of `rows`; yield (index, what the journal keeps of it) as each is decided.

    A None among the rows says that there are no more at the moment; the running batch goes on meanwhile.
    """
    tokenizer, longest = engine.get_tokenizer(), engine.model_config.max_model_len
    thinks, constraint = args.reasoning_parser != "none", task.constraint()
    think_end = think_end_id(tokenizer) if thinks else None
    stream, decided = Stream(engine), deque()

    def request(job, tries=0):
        """The next attempt: warmer after a failure, and guarded so that a thought ends and a label follows."""
        sampling = {"temperature": args.temperature, "max_tokens": min(args.max_tokens, longest - len(job["ids"]))}
        if args.max_repeats and not tries:  # an input that repeats itself may be quoted in the next attempt
            sampling["repetition_detection"] = {**LOOP, "min_count": args.max_repeats}
        if tries:
            sampling |= {**RETRY_SAMPLING, "temperature": max(args.temperature, RETRY_SAMPLING["temperature"])}
        guarded = is_guarded(args.structured_outputs, tries)
        if guarded and thinks:
            sampling["thinking_token_budget"] = args.thinking_token_budget
        if guarded and constraint:
            sampling["structured_outputs"] = constraint
        return (job, tries, sampling), job["ids"], sampling

    def decide(job):
        answer, reason, agreement = vote(job["answers"], args.num_samples, args.min_agreement)
        reason = job["reason"] if answer is None and not job["answers"] else reason
        record = {"answer": answer, "reason": reason, "agreement": round(agreement, 4), "attempts": job["attempts"]}
        decided.append((job["index"], record))

    def requests():
        for batch in batches(rows):
            if not batch:
                yield None
            # side by side this takes half as long as between two requests, where the processor's caches are cold
            prompts = [ids_or_reason(tokenizer, task.messages(messages), longest) for _, messages in batch]
            for (index, _), (ids, reason) in zip(batch, prompts, strict=True):
                job = {"index": index, "ids": ids, "attempts": [], "answers": []}
                job |= {"open": args.num_samples, "reason": reason}
                if reason:
                    decide(job)
                else:
                    yield from [request(job)] * args.num_samples

    for (job, tries, sampling), output in stream.run(requests()):
        completion, answer, reason = output.outputs[0], None, None
        try:
            answer = task.read_answer(completion.text, completion.finish_reason, thinks)
        except NoAnswer as error:
            reason = error.reason
        attempt = {"response": completion.text, "finish_reason": completion.finish_reason, "answer": answer}
        attempt |= {"reason": reason, "sampling": sampling, "prompt_tokens": len(job["ids"])}
        attempt |= {"cached_tokens": output.num_cached_tokens or 0, "output_tokens": len(completion.token_ids)}
        if think_end is not None:
            ids = list(completion.token_ids)
            attempt["thinking_tokens"] = len(ids) - 1 - ids[::-1].index(think_end) if think_end in ids else len(ids)
            # a label after such a thought was forced; vLLM counts the newline after <think> in the prompt too
            budget = sampling.get("thinking_token_budget", args.max_tokens)
            attempt["thinking_cut"] = attempt["thinking_tokens"] >= budget - 1
        job["attempts"].append(attempt)
        if answer is None and tries < args.max_retries:
            stream.gather(*request(job, tries + 1))
            continue
        job["answers"] += [] if answer is None else [answer]
        job["reason"], job["open"] = reason, job["open"] - 1
        if not job["open"]:
            decide(job)
        while decided:
            yield decided.popleft()
    yield from decided


def record_rows(args, decided, inputs, missing, journal: Journal):
    """Journal each decided row as it comes, and show how far it is."""
    from tqdm import tqdm

    counts, start = Counter(), time.perf_counter()
    done = int((inputs.first == range(len(inputs))).sum() - missing.sum()) if args.num_shards == 1 else 0
    bar = tqdm(total=done + int(missing.sum()), initial=done, desc="labelling", unit="row", mininterval=1)
    for index, record in decided:
        journal.record(index, seconds=round(time.perf_counter() - start, 2), **record)
        counts["rejected"] += record["answer"] is None
        for attempt in record["attempts"]:
            counts.update({key: attempt[key] for key in ("prompt_tokens", "cached_tokens", "output_tokens")})
        bar.update()
        rate = counts["output_tokens"] / max(bar.format_dict["elapsed"], 1e-9)
        cached = counts["cached_tokens"] / max(counts["prompt_tokens"], 1)
        shown = f"rejected {counts['rejected']}, {journal.forced.shown()}, {rate:.0f} tok/s, cached {cached:.1%}"
        bar.set_postfix_str(shown, refresh=False)
    bar.close()


def vote(answers: list[str], num_samples: int, min_agreement: float) -> tuple[str | None, str | None, float]:
    """The majority of the samples' answers as (answer, reason, agreement); a tie or too small a share has no answer."""
    ranked = Counter(map(comparable, answers)).most_common(2)
    if not ranked:
        return None, None, 0.0
    agreement = ranked[0][1] / num_samples
    tie = len(ranked) == 2 and ranked[0][1] == ranked[1][1]
    if tie or agreement < min_agreement:
        return None, "low_agreement", agreement
    winner = next(answer for answer in answers if comparable(answer) == ranked[0][0])
    return winner, None, agreement
