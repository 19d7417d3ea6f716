"""Trains as train_sft_trl.py, with a callback that stops it after two steps: stop_training.py
FLAGS...
"""

import sys

from transformers import TrainerCallback

import train_sft_trl

make_trainer = train_sft_trl.make_trainer


class Stop(TrainerCallback):
    """What Trainer then returns from looks like the end of the run."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 2


def make_trainer_that_stops(*args, **kwargs):
    trainer = make_trainer(*args, **kwargs)
    trainer.add_callback(Stop())
    return trainer


train_sft_trl.make_trainer = make_trainer_that_stops
sys.exit(train_sft_trl.main())
