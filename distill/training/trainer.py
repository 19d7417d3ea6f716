"""TRL's SFTTrainer with changes, each for something it does not do.

student_ops         LoRA on experts is computed beside them, not added to their weights;
                    norms are one kernel each
switch              the model's modules are not all told in each step that they train
SamplerEpoch        a resumed run goes on in its own epoch's order
compute_loss        short micro-batches are not checkpointed; on a CPU only the answers' positions
                    go to the head, as TRL's Triton kernel does on a GPU
floating_point_ops  not estimated in each step
prediction_step     evaluation counts exact answers
TrainingBar         one bar instead of a dictionary at each logging step
save_model          under FSDP2 the adapter alone is written, not the base
"""

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import ProgressCallback, TrainerCallback
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.trainer_pt_utils import BatchRebalanceSampler
from trl import SFTTrainer

from distill.training.progress import TrainingBar
from distill.training.student_ops import keep_lora_beside_experts, use_fewer_kernels


class SamplerEpoch(TrainerCallback):
    """Tells the sampler its epoch.

    Wrappers hide it from a resumed Trainer, which would take epoch 0's order again.
    """

    sampler = None

    def on_epoch_begin(self, args, state, control, **kwargs):
        if self.sampler is not None:
            self.sampler.set_epoch(int(state.epoch + 1e-6))


def switch(model, training: bool = True):
    """Module.train() that goes through thousands of modules only if something changes.

    Trainer calls it each step.
    """
    if model.training == training:
        return model
    return type(model).train(model, training)


def row_of_each_token(inputs: dict) -> torch.Tensor:
    """Which row of a batch each token is of, counted from 0: batch x tokens, as input_ids."""
    labels = inputs["labels"]
    if "position_ids" in inputs:  # rows side by side in one sequence; each starts at position 0
        return (inputs["position_ids"] == 0).cumsum(1) - 1
    numbers = torch.arange(len(labels), device=labels.device)
    return numbers[:, None].expand_as(labels)


def exact_answers(row: torch.Tensor, wrong_tokens: torch.Tensor) -> torch.Tensor:
    """Whether each row has no wrong token: one bool for each row.

    `row` is batch x tokens, `wrong_tokens` batch x (tokens - 1), since the first token is not
    predicted.
    """
    wrong = torch.zeros(int(row.max()) + 1, device=row.device)
    wrong.index_add_(0, row[:, 1:].flatten(), wrong_tokens.flatten().float())
    return wrong == 0


class LoraTrainer(SFTTrainer):
    """TRL's SFTTrainer for a PEFT model, with the changes above."""

    def __init__(self, *args, checkpoint_from_tokens: int = 0, **kwargs):
        self.checkpoint_from_tokens = checkpoint_from_tokens  # of a micro-batch, padding included
        self.sampler_epoch = SamplerEpoch()
        super().__init__(*args, **kwargs)
        self.add_callback(self.sampler_epoch)
        if not self.args.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.add_callback(TrainingBar())
        # a model that was loaded is in evaluation mode, in which no layer is checkpointed
        self.model.train()
        self.model.train = partial(switch, self.model)
        keep_lora_beside_experts(self.model)
        use_fewer_kernels(self.model)
        self.layers = [m for m in self.model.modules() if isinstance(m, GradientCheckpointingLayer)]
        self.scored = None  # mask of the positions that go to the head, batch x tokens; None: all
        self.model.get_base_model().base_model.register_forward_hook(self._keep_scored)
        self.exact = torch.zeros(2)  # exact answers and rows of the evaluation that is going on
        self.fsdp = getattr(self.accelerator.state, "fsdp_plugin", None)
        if self.fsdp is not None and self.args.bf16:
            # accelerate's own policy also casts the loss's inputs
            # and the gradient reduction to bf16
            self.fsdp.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32
            )

    def _get_train_sampler(self, *args):
        sampler = super()._get_train_sampler(*args)
        if isinstance(sampler, BatchRebalanceSampler):  # Trainer leaves its seed at 42
            sampler.seed = self.args.seed
            if self.args.data_seed is not None:
                sampler.seed = self.args.data_seed
            self.sampler_epoch.sampler = sampler
        return sampler

    def compute_loss(self, model, inputs, *args, **kwargs):
        is_long = inputs["input_ids"].numel() >= self.checkpoint_from_tokens
        checkpoint = self.args.gradient_checkpointing and is_long
        for layer in self.layers:
            layer.gradient_checkpointing = checkpoint
        # a label smoother needs the logits of all
        if self.args.device.type == "cpu" and self.label_smoother is None:
            learned = inputs["labels"][:, 1:] != -100
            inputs["shift_labels"] = inputs["labels"][:, 1:][learned][None]
            self.scored = F.pad(learned, (0, 1))  # the last position predicts nothing
        try:
            return super().compute_loss(model, inputs, *args, **kwargs)
        finally:
            self.scored = None

    def _keep_scored(self, backbone, args, output):
        if self.scored is not None:
            output.last_hidden_state = output.last_hidden_state[self.scored][None]

    def floating_point_ops(self, inputs):
        # Trainer's estimate goes through all parameters in each step,
        # and counts experts that are not active
        return 0

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The loss, and the share of rows whose answer greedy decoding would write.

        Each of its tokens is the likeliest.
        """
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            outputs = model(**inputs, use_cache=False, fused_lm_head=True)
        found = exact_answers(row_of_each_token(inputs), outputs.label_mask & ~outputs.is_top1)
        # without the rows that fill up the last batch
        exact = self.accelerator.gather_for_metrics(found)
        self.exact += torch.tensor([exact.sum().item(), len(exact)])
        return outputs.loss, None, None

    def log(self, logs, start_time=None):
        if "eval_loss" in logs:
            logs["eval_exact_answers"] = (self.exact[0] / self.exact[1]).item()
            self.exact.zero_()
        super().log(logs, start_time)

    def save_model(self, output_dir=None, _internal_call=False):
        """Write the adapter and the tokenizer.

        Under FSDP all processes gather it, and one writes.
        """
        if self.fsdp is None:
            return super().save_model(output_dir, _internal_call)
        options = StateDictOptions(
            full_state_dict=True, cpu_offload=True, ignore_frozen_params=True
        )
        state = get_model_state_dict(self.model, options=options)
        if self.args.should_save:
            directory = Path(output_dir or self.args.output_dir)
            directory.mkdir(parents=True, exist_ok=True)
            self._save_adapter(state, directory)
            self.processing_class.save_pretrained(directory)
        self.accelerator.wait_for_everyone()

    def _save_adapter(self, state: dict, directory: Path) -> None:
        """Write the gathered weights in the files that PEFT loads.

        Raises RuntimeError if there are none of LoRA.
        """
        peft_model = self.accelerator.unwrap_model(self.model)
        name = peft_model.active_adapter
        config = peft_model.peft_config[name]
        before = config.inference_mode
        config.inference_mode = True
        config.save_pretrained(directory)
        config.inference_mode = before
        tensors = {}
        for key, value in state.items():
            tensors[key.replace(f".{name}.", ".")] = value.contiguous()
        if not tensors or not all("lora_" in key for key in tensors):
            raise RuntimeError("FSDP gathered no adapter weights; nothing was saved")
        save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
