"""What the flags of predict.py choose, for whoever works by it."""

from dataclasses import dataclass

from distill.columns import Columns
from distill.labels.choices import Cluster
from distill.prices import Prices
from distill.teacher.server import Server


@dataclass(frozen=True)
class Choices:
    """What one run answers, with which student, and where it writes."""

    input_file: str
    output_file: str
    columns: Columns  # of the input file
    limit: int  # only so many inputs from the beginning; 0: all

    adapter: str  # what step 2 wrote; empty: the model is asked as it is
    model_name: str  # the adapter's base where it is, or a merged model; empty: as recorded
    revision: str | None  # of that model on the hub; None: as recorded, or main
    task_file: str  # empty: as step 2 or step 3 has recorded it
    calibration: str  # a file of it; empty: the adapter's, if it has one; none: without
    serve_adapter: str  # auto, lora or merged
    server: Server | None  # where the student is served elsewhere; None: an engine of ours
    max_tokens: int  # of an answer
    engine_flags: list[str]  # vLLM's own
    cluster: Cluster

    prices: Prices
    min_success_rate: float  # share of rows with an answer below which the run has failed
    overwrite: bool
    skip_finished: bool  # a finished output of the same run is no error
