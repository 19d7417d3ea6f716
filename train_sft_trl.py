r"""Step 2: the student learns the teacher's answers without the prompt.

Through LoRA, with TRL's SFTTrainer.

    bash train_trl.sh Qwen/Qwen3-30B-A3B-Instruct-2507 models/my_adapter \
        data/prompt_distillation_lang.jsonl

Every SFTConfig flag is accepted, and --config FILE.yaml sets any of them. The loss falls on the
answer and its end of turn, in exactly the context that inference sees. The same command again
resumes from the last complete checkpoint. The flags are in distill/training/recipe.py; what is
checked before the student is loaded in checks.py beside it.
"""

if __name__ == "__main__":
    from distill import early_stop, quiet_start  # noqa: F401
    from distill.training.short_help import answer_help

    answer_help(__doc__)  # before the imports below, which take seconds

import atexit
import json
import logging
import os
import sys
import time
from pathlib import Path

import torch
from accelerate import PartialState

from distill.stopping import end_at_signals
from distill.streams import lasting_streams
from distill.system import end_with_parent
from distill.training.arguments import OneLineParser, TrainArguments
from distill.training.build import make_trainer
from distill.training.calibration_rows import write_rows
from distill.training.checkpoints import steps_of
from distill.training.checks import Checked, check_run
from distill.training.console import (
    say_calibration,
    say_files,
    say_next,
    say_sizes,
    say_start,
)
from distill.training.hub import PushError, push
from distill.training.recipe import ScriptArguments
from distill.training.results import (
    sizes_of,
    stopped_before_its_end,
    summary_of,
    write_results,
)
from distill.training.rows import warn_about_rows
from distill.training.run_directory import is_finished
from distill.training.train_files import file_with_task

log = logging.getLogger("train_sft_trl")


def main() -> int:
    begin_process()
    try:
        script, args = OneLineParser((ScriptArguments, TrainArguments)).parse()
        checked = check_run(script, args)
    except (ValueError, OSError) as error:
        if is_first():
            print(f"train_sft_trl.py: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    if script.check_only:
        return 0
    # the checks let it pass for --push_to_hub and --skip_finished alone;
    # a network's file system may still show what they deleted
    if is_finished(Path(args.output_dir)) and not script.overwrite:
        return leave(leave_finished(script, args, checked))
    return leave(train(script, args, checked))


def begin_process() -> None:
    """Set what belongs to the process: how it ends, and where it writes."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # the launcher puts its processes into sessions of their own, where its death leaves them
        end_with_parent()
    end_at_signals()
    lasting_streams()
    logging.basicConfig(format="%(message)s")
    level = logging.INFO if is_first() else logging.ERROR
    log.setLevel(level)
    logging.getLogger("models").setLevel(level)


def is_first() -> bool:
    """Whether this is the process that speaks; known before there are any arguments."""
    return os.environ.get("RANK", "0") == "0"


def train(script, args, checked: Checked) -> int:
    """Train, and write and push what came of it; returns the exit code."""
    is_main = args.process_index == 0
    if is_main:
        say_start(checked.counts, script.model_name, args.output_dir, args.world_size)
        say_files(checked.counts, checked.settled, script.on_conflict)
        calibration = checked.calibration
        say_calibration(calibration, checked.files(), args.output_dir, script.init_adapter)
        write_rows(Path(args.output_dir), calibration)
        if checked.few_rows:
            log.info(checked.few_rows)
    init_adapter = None
    if checked.checkpoint is None:  # otherwise the run has begun, and goes on with its own weights
        init_adapter = script.init_adapter
    if is_main and init_adapter:
        log.info("training starts from the weights of %s", init_adapter)
    trainer = make_trainer(
        script,
        args,
        checked.tokenizer,
        checked.lora,
        checked.rows,
        checked.eval_rows,
        init_adapter=init_adapter,
    )
    sizes = sizes_of(trainer)
    if is_main:
        warn_about_rows(checked.rows, checked.eval_rows)
        say_sizes(trainer, checked.tokenizer, checked.rows[0], sizes)

    resumed = 0
    if checked.checkpoint:
        resumed = steps_of(checked.checkpoint)  # read now: training deletes old checkpoints
    start = time.perf_counter()
    result = trainer.train(resume_from_checkpoint=checked.checkpoint)
    stopped = stopped_before_its_end(trainer)
    if stopped:
        if is_main:
            print(f"train_sft_trl.py: {stopped}", file=sys.stderr)
        return 1
    trainer.save_model()
    seconds = time.perf_counter() - start
    if not is_main:
        return 0
    output_dir = Path(args.output_dir)
    summary = summary_of(trainer, sizes, result.training_loss, seconds, resumed)
    summary["calibration_rows"] = len(checked.calibration.lines)
    summary.update(checked.task)  # by which predict.py reads answers
    write_results(output_dir, trainer.state.log_history, summary)
    return finish(script, output_dir, summary, checked)


def leave_finished(script, args, checked: Checked) -> int:
    """Push a run that an earlier process has finished, if it is to be; returns the exit code."""
    if args.process_index != 0:
        return 0
    output_dir = Path(args.output_dir)
    log.info("train_sft_trl.py: %s is finished, nothing to train", output_dir)
    summary = json.loads((output_dir / "results.json").read_text())
    if checked.repository is None:
        summary["skipped"] = True
    return finish(script, output_dir, summary, checked)


def finish(script, output_dir: Path, summary: dict, checked: Checked) -> int:
    """Push a finished run if it has a repository, say what comes next and print the last line.

    Returns 1 where only the push failed.
    """
    code = 0
    line = dict(summary)
    repository = checked.repository
    if repository is not None:
        try:
            push(repository, output_dir, checked.tokenizer)
            line["hub_url"] = repository.url
        except PushError as error:
            print(f"train_sft_trl.py: {error}", file=sys.stderr)
            code = 1
    if code == 0:
        say_next(str(output_dir), script.model_name, file_with_task(checked.files()))
    print(json.dumps(line))  # last, also where both streams go into one file
    return code


def leave(code: int) -> int:
    """Wait for the other processes, if there are any, and end with `code`."""
    if torch.distributed.is_initialized():
        PartialState().wait_for_everyone()
        # gloo's destructor joins a thread that may wait for the GIL,
        # and then a finished process never ends
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
