"""The bar of training, in the place of Trainer's: how far it is, and the last loss.

Trainer's own prints a dictionary at each logging step, on stdout. What is in them is in
trainer_state.json of each checkpoint, in loss.png and at the reporters of --report_to.
"""

import logging

from transformers import ProgressCallback

from distill.progress import bar

log = logging.getLogger("train_sft_trl")
# of Trainer's figures those that the bar shows, with the names that it gives them
SHOWN = {"loss": "loss", "learning_rate": "lr"}


class TrainingBar(ProgressCallback):
    """One bar for the steps, and another one in its place while rows are evaluated.

    With several processes the first one shows it.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        self.current_step = state.global_step
        if state.is_world_process_zero:
            self.training_bar = bar(
                total=state.max_steps, initial=state.global_step, desc="training", unit="step"
            )

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if not state.is_world_process_zero or eval_dataloader is None:
            return
        if self.prediction_bar is None:
            self.prediction_bar = bar(
                total=len(eval_dataloader),
                later=True,
                leave=False,
                position=0,
                desc="evaluating",
                unit="batch",
            )
        self.prediction_bar.update()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or self.training_bar is None:
            return
        shown = [f"{name} {logs[key]:.3g}" for key, name in SHOWN.items() if key in logs]
        if shown:
            self.training_bar.set_postfix_str(", ".join(shown), refresh=False)
        if "eval_loss" in logs:
            self.training_bar.clear()  # on a terminal, where the next state follows below
            log.info(
                "step %d: %.1f %% of the evaluated answers are exact, eval_loss %.4f",
                state.global_step,
                100 * logs["eval_exact_answers"],
                logs["eval_loss"],
            )
