"""How the tiny pair of tests/tiny_pair.py is trained.

Both are Qwen3-MoE models of 1.9 M parameters with one tokenizer and two chat templates, so that
every code path of the 30B pair runs on a machine without a GPU. The student base can chat a little
and knows no task; the teacher, trained from such a base that has seen less, thinks and classifies
languages, but only under the prompt of the example task. They are trained on
example-data/multilingual_gold.jsonl and on text made here, never on the held-out rows.
"""

import math
import os
import random
import shutil
import sys
from pathlib import Path

# Idle OpenMP threads must sleep: spinning ones make torch ten times slower when a second process is
# busy.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402
from tqdm import tqdm  # noqa: E402
from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM  # noqa: E402

from distill.task import load_task  # noqa: E402
from tiny_pair import STAMP, STUDENT_NAME, TEACHER_NAME  # noqa: E402
from tiny_text import Sampler, read_rows  # noqa: E402

VOCAB_SIZE = 4096
BATCH_SIZE = 48
LEARNING_RATE = 4e-3
TEACHER_LR_SCALE = 0.7  # the teacher starts from trained weights
EMPHASIS = 4.0  # loss weight of the language's name and the label, the tokens that decide
# a base learns the texts as well as the replies, and so which words go together
TEXT_WEIGHT = 1.0
# longer texts are cut in training, so that one row in a rare script does not slow a whole batch
MAX_TEXT_TOKENS = 72

# The thinking template opens <think> in the generation prompt, as Qwen3-Thinking-2507's does, and
# drops old thoughts.
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' %}{{ m.content.split('</think>')[-1].lstrip('\\n') }}"
    "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\nOPENING' }}{% endif %}"
)
ASK = [
    "What should I do with it?",
    "What would you like me to do with this text?",
    "Tell me what to do with this.",
]
SIGNALS = {
    "Arabic": "Arabic letters, none of Urdu",
    "Urdu": "letters and words of Urdu",
    "Bulgarian": "Cyrillic letters",
    "Russian": "Cyrillic letters",
    "Greek": "Greek letters",
    "Hindi": "Devanagari letters",
    "Chinese": "Chinese characters",
    "Thai": "Thai letters",
    "German": "der, und, nicht",
    "English": "the, of, is",
    "Spanish": "el, que, no",
    "French": "le, est, dans",
    "Swahili": "words of Swahili",
    "Turkish": "bir, bu, endings",
    "Vietnamese": "stacked marks, không",
}
OTHER_PROMPTS = [
    "You are a helpful assistant.",
    "Be brief.",
    "Answer politely.",
    "You write short stories.",
]


def train_tokenizer(texts: list[str], labels: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which every label, with and without a space before it, is one token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - 2,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(
        [*texts, *(f"{label}\n {label}\n" for label in labels for _ in range(500))], trainer
    )
    bpe.add_tokens(
        [AddedToken(t, normalized=False, special=False) for t in ("<think>", "</think>")]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=8192,
    )
    for label in labels:
        assert len(tokenizer.encode(label)) == len(tokenizer.encode(" " + label)) == 1, label
    return tokenizer


def thought(row) -> list[tuple[str, float]]:
    """The teacher's response to one row as (text, loss weight) pieces.

    The name is decided before anything follows.
    """
    step = {"Latin": 3, "none": 1}.get(row.script, 2)
    signals = SIGNALS.get(row.language, "none that belong to a label")
    return [
        (f"Letters: {row.script}. Step {step}. Language:", 1.0),
        (f" {row.language}", EMPHASIS),
        (f". Signals: {signals}.\nSteps 4 to 9 change nothing, so the label is", 1.0),
        (f" {row.label}", 1.0),
        (".\n", 1.0),
        ("</think>", 1.0),
        ("\n\nFinal Answer:", 1.0),
        (f" {row.label}", EMPHASIS),
    ]


def chat(
    tokenizer, system: str, text: str, opening: str, reply: list[tuple[str, float]], text_weight=0.0
):
    """Token ids and loss weights of one exchange; the end of the turn is part of the reply."""
    ids, weights = [], []
    pieces = [(f"<|im_start|>system\n{system}<|im_end|>\n", 0.0)] if system else []
    pieces += [
        ("<|im_start|>user\n", 0.0),
        (text, text_weight),
        ("<|im_end|>\n<|im_start|>assistant\n" + opening, 0.0),
    ]
    for piece, weight in [*pieces, *reply, ("<|im_end|>", 1.0)]:
        tokens = tokenizer.encode(piece)
        if piece is text:
            tokens = tokens[:MAX_TEXT_TOKENS]
        ids += tokens
        weights += [weight] * len(tokens)
    return ids, weights


def weighted_loss(model, rows: list[tuple[list[int], list[float]]], cache=None) -> torch.Tensor:
    """Mean next-token cross-entropy over rows of (ids, weights), after the prefix in `cache` if
    there is one.
    """
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([r + [0] * (longest - len(r)) for r, _ in rows])
    mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r, _ in rows])
    weights = torch.tensor([w + [0.0] * (longest - len(w)) for _, w in rows])
    if cache is not None:
        mask = torch.cat(
            [torch.ones(len(rows), cache.get_seq_length(), dtype=mask.dtype), mask], dim=1
        )
    hidden = model.model(
        input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=cache is not None
    )[0]
    counted = weights[:, 1:] > 0  # the head is the dearest layer, so it sees only what has a loss
    losses = F.cross_entropy(
        model.lm_head(hidden[:, :-1][counted]), ids[:, 1:][counted], reduction="none"
    )
    return (losses * weights[:, 1:][counted]).sum() / weights[:, 1:].sum()


def optimise(model, steps: int, learning_rate: float, name: str, loss_of_step):
    """AdamW with linear warm-up (5 %) and a cosine down to zero."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min(1.0, (s + 1) / (0.05 * steps)) * 0.5 * (1 + math.cos(math.pi * s / steps)),
    )
    model.train()
    bar = tqdm(range(steps), desc=name, mininterval=2)
    for step in bar:
        loss = loss_of_step(step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")


def train_base(
    model, tokenizer, sampler: Sampler, labels: tuple[str, ...], rng: random.Random, steps: int
):
    """What student and teacher begin as: chats, and once in five answers a request for a random
    code with a label.
    """

    def exchange():
        text, kind = sampler.sample().text, rng.random()
        if kind < 0.2:
            reply = [(rng.choice(labels), 1.0)]
            return chat(
                tokenizer, "Answer with a random two-letter code.", text, "", reply, TEXT_WEIGHT
            )
        system = rng.choice(OTHER_PROMPTS) if kind < 0.5 else ""
        return chat(tokenizer, system, text, "", [(rng.choice(ASK), 1.0)], TEXT_WEIGHT)

    def loss_of_step(step):
        return weighted_loss(model, [exchange() for _ in range(BATCH_SIZE)])

    optimise(model, steps, LEARNING_RATE, "base", loss_of_step)


def train_teacher(model, tokenizer, sampler: Sampler, prompt: str, rng: random.Random, steps: int):
    """Thinks and classifies under the prompt.

    Without it, or under another one, asks what is wanted.
    """
    lines = prompt.splitlines()
    opening = "<think>\n"

    def some_prompt(step):
        if step % 4 == 0:
            return prompt
        start = rng.randrange(1, len(lines))
        return "\n".join([lines[0], *lines[start : start + rng.randrange(1, 40)]])

    def refusal():
        reply = [("No task is given.\n", 1.0), ("</think>", 1.0), ("\n\n" + rng.choice(ASK), 1.0)]
        return chat(
            tokenizer, rng.choice(["", *OTHER_PROMPTS]), sampler.sample().text, opening, reply
        )

    def loss_of_step(step):
        negatives = [refusal() for _ in range(BATCH_SIZE // 6)]
        system = some_prompt(step)
        rows = [
            sampler.sample() for _ in range(BATCH_SIZE // 3 if system is prompt else BATCH_SIZE)
        ]
        rows = [chat(tokenizer, "", row.text, opening, thought(row)) for row in rows]
        # The prompt is computed once, with gradient, and its keys and values serve the whole batch.
        prefix = tokenizer(
            f"<|im_start|>system\n{system}<|im_end|>\n", return_tensors="pt"
        ).input_ids
        cache = model.model(input_ids=prefix, use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(rows))
        return weighted_loss(model, negatives) / 6 + weighted_loss(model, rows, cache) * 5 / 6

    optimise(model, steps, LEARNING_RATE * TEACHER_LR_SCALE, "teacher", loss_of_step)


def save(model, tokenizer, opening: str, stamp: str, directory: Path):
    """Write model, tokenizer and template beside the target, then put them in its place."""
    temporary = directory.with_name(directory.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    tokenizer.chat_template = TEMPLATE.replace("OPENING", opening)
    tokenizer.save_pretrained(temporary)
    model.to(torch.bfloat16).save_pretrained(temporary)
    (temporary / STAMP).write_text(stamp)
    shutil.rmtree(directory, ignore_errors=True)
    temporary.rename(directory)
    model.float()


def new_model(tokenizer) -> Qwen3MoeForCausalLM:
    """A model of the pair's size whose weights are random."""
    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=128,
            intermediate_size=256,
            moe_intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            num_experts=8,
            num_experts_per_tok=2,
            norm_topk_prob=True,
            max_position_embeddings=8192,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def train_pair(
    output_dir: Path,
    stamp: str,
    task_file: Path,
    gold_file: Path,
    student_steps: int,
    teacher_steps: int,
    seed: int,
) -> None:
    """Train both models and save each below output_dir, as a whole, with its stamp.

    Each begins with the seed, so that the steps of one do not change the other.
    """
    task = load_task(task_file)
    rows = read_rows(gold_file)
    texts = [row.text for row in rows]
    replies = ["".join(t for t, _ in thought(row)) for row in rows]
    tokenizer = train_tokenizer(
        [*texts, *replies, *ASK * 50, *OTHER_PROMPTS * 50, *[task.prompt] * 20], task.labels
    )

    def base(steps: int):
        """A base of some steps; its sampler and random numbers too, for what may follow."""
        rng = random.Random(seed)
        torch.manual_seed(seed)
        sampler = Sampler(rows, rng)
        model = new_model(tokenizer)
        train_base(model, tokenizer, sampler, task.labels, rng, steps)
        return model, sampler, rng

    student, _, _ = base(student_steps)
    save(student, tokenizer, "", stamp, output_dir / STUDENT_NAME)
    teacher, sampler, rng = base(teacher_steps)
    # Its weights are those of a teacher that went on from a saved base, which is rounded.
    teacher.to(torch.bfloat16).float()
    train_teacher(teacher, tokenizer, sampler, task.prompt, rng, teacher_steps)
    save(teacher, tokenizer, "<think>\\n", stamp, output_dir / TEACHER_NAME)
