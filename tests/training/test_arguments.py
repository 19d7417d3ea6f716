"""The defaults of step 2's own arguments."""

from distill.training.arguments import TrainArguments


def test_only_the_default_schedule_has_a_lowest_rate(tmp_path):
    """Or those that ignore it: old runs recorded it as it is here, and must resume."""
    common = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
    for name in (
        "cosine_with_min_lr",
        "cosine_warmup_with_min_lr",
        "constant",
        "constant_with_warmup",
    ):
        assert (
            str(TrainArguments(**common, lr_scheduler_type=name).lr_scheduler_kwargs)
            == "{'min_lr_rate': 0.1}"
        )
    assert TrainArguments(**common, lr_scheduler_kwargs='{"min_lr": 1e-6}').lr_scheduler_kwargs == {
        "min_lr": 1e-6
    }
    assert not TrainArguments(**common, lr_scheduler_type="linear").lr_scheduler_kwargs
