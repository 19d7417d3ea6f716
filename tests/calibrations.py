"""What a calibration.json of the tests holds, but for the hashes of task and adapter."""

MADE = {
    "temperature": 2.0,
    "threshold": 0.8,
    "chosen_by": "hand_over",
    "wanted": 0.05,
    "rows": 200,
    "handed_over": 10,
    "agreed": 185,
    "agreement_bound": 0.94,
    "task_file": "task.yaml",
}
