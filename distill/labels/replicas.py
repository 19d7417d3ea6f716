"""Step 1 past one machine: create_data.py --num_replicas N asks N engines.

They are actors of Ray Data. The driver reads the inputs and writes the journal; Ray Data hands out
chunks of inputs, replaces a replica that is lost and holds back when replicas are slow. Every node
needs this repository and its environment under the same path.
"""

import json
import logging
import math
import os
import platform
import queue
import sys
import threading
import time
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from distill.chats import input_hash, read_inputs
from distill.cli import one_line
from distill.columns import Columns
from distill.labels.choices import Cluster
from distill.labels.inputs import Inputs, InputsChanged
from distill.labels.labelling import Labelling, Settings
from distill.labels.ray_cluster import LOGS, last_line
from distill.task import Task
from distill.teacher import child
from distill.teacher.check import TeacherModel, check_teacher
from distill.teacher.engine import CANNOT_START, start_engine
from distill.teacher.vllm_engine import VLLMTeacher

log = logging.getLogger("create_data")
CHUNK = 64  # inputs that travel together
# chunks that a replica holds at a time: while one waits for its slowest input,
# others keep the batch full
CHUNKS = 64
# seconds after which a replica sends what it has decided, if no chunk is finished meanwhile
EVERY = 1.0


class ReplicasFailed(Exception):
    """The cluster cannot go on.

    The script's `exit_code` is 2 if no engine could start, and else 1.
    """

    def __init__(self, reason: str, exit_code: int):
        super().__init__(reason)
        self.exit_code = exit_code


class Work(Protocol):
    """What a replica does; it is sent to each, so it holds plain values."""

    def start(self):
        """Start what answers; raises where it cannot be started. Called once, in the replica."""

    def asking(self, started) -> Labelling:
        """What asks it: label() as that of Labelling."""


@dataclass(frozen=True)
class Assignment:
    """The work of step 1: whom to start and how to ask."""

    teacher: TeacherModel
    settings: Settings
    task_file: str
    task: Task

    def start(self):
        """Start the teacher's engine; raises ValueError."""
        engine_args = check_teacher(self.teacher, self.task_file, self.task, self.settings.guards)
        if self.teacher.tensor_parallel_size > 1:
            engine_args.distributed_executor_backend = (
                engine_args.distributed_executor_backend or "mp"
            )
        return start_engine(engine_args)

    def asking(self, engine) -> Labelling:
        """Attempts, retries and votes."""
        return Labelling(VLLMTeacher(engine, self.settings.thinks), self.task, self.settings)


def label_on_replicas(cluster: Cluster, work: Work, inputs: Inputs, missing):
    """What Labelling.label() does, on replicas: yields (index, record) as the inputs are decided.

    What was in flight where a replica is lost is asked again in another pass, by those that are
    left. Raises ReplicasFailed if a whole pass decides nothing, and InputsChanged if a replica was
    given another text than the first pass over the inputs has read.
    """
    import ray

    missing = missing.copy()
    failure = None
    while missing.any():
        left = int(missing.sum())
        try:
            for row in pass_over(cluster, work, inputs, missing).iter_rows():
                for index, asked, record in json.loads(row["records"]):
                    if asked != inputs.hash(index):
                        raise InputsChanged(inputs.path, f"input {index} has changed")
                    if missing[index]:
                        missing[index] = False
                        yield index, record
        except ray.exceptions.RayError as error:
            failure = last_line(error)
        again = int(missing.sum())
        if again == left:
            reason = f"no replica could decide any of {left} inputs: {failure or LOGS}"
            raise ReplicasFailed(reason, exit_code=2 if CANNOT_START in reason else 1)
        if again:
            log.warning(
                "a replica was lost; %d inputs that it held are asked again (%s)",
                again,
                failure or LOGS,
            )


def pass_over(cluster: Cluster, work: Work, inputs: Inputs, missing):
    """A Ray dataset of the decided chunks of all missing inputs, which runs while it is read."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # a block for each chunk: the unit that Ray Data hands out
    context.max_errored_blocks = -1  # a lost replica's chunks are left for the next pass
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # we say ourselves what was lost
    resources = {"num_gpus": cluster.tensor_parallel_size}
    if cluster.cpus_per_replica:
        # without "nobind" an engine in a process of its own would bind its threads to all cores
        threads = {
            "OMP_NUM_THREADS": str(cluster.cpus_per_replica),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
        resources = {"num_cpus": cluster.cpus_per_replica, "runtime_env": {"env_vars": threads}}
    # few rows are shared out evenly too
    at_once = min(CHUNKS, math.ceil(missing.sum() / CHUNK / cluster.num_replicas))
    chunks = ray.data.read_datasource(
        chunks_of(inputs.path, inputs.columns, missing.copy()), num_cpus=0, override_num_blocks=1
    )
    return chunks.map_batches(
        Replica,
        batch_size=None,
        fn_constructor_args=[work],
        compute=ActorPoolStrategy(
            size=cluster.num_replicas,
            max_tasks_in_flight_per_actor=at_once,
            max_concurrent_calls_per_actor=at_once,
            enable_true_multi_threading=True,
        ),
        max_restarts=-1,  # it starts again where there is room
        max_task_retries=0,  # and what it held is not kept waiting for that
        **resources,
    )


def chunks_of(path: str, columns: Columns, missing):
    """A Ray datasource that reads the missing inputs on the driver's machine.

    CHUNK of them are a row.
    """
    import pyarrow
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    class Chunks(Datasource):
        supports_distributed_reads = False

        def estimate_inmemory_data_size(self):
            return None

        def get_read_tasks(self, *args, **kwargs):
            metadata = BlockMetadata(
                num_rows=None, size_bytes=None, input_files=None, exec_stats=None
            )
            return [ReadTask(read, metadata)]

    def read():
        rows = zip(range(len(missing)), read_inputs(path, columns), strict=False)
        wanted = ((index, messages) for index, (_, messages) in rows if missing[index])
        chunk = list(islice(wanted, CHUNK))
        while chunk:
            yield pyarrow.table({"inputs": [json.dumps(chunk, ensure_ascii=False)]})
            chunk = list(islice(wanted, CHUNK))

    return Chunks()


class Replica:
    """One engine, which a thread of its own starts and steps.

    Ray Data calls it from many threads, a chunk in each.
    """

    def __init__(self, work: Work):
        self.work = work
        self.arriving = queue.SimpleQueue()
        self.decided = queue.SimpleQueue()
        self.open = {}  # a Future for each input that is not decided yet
        # of the inputs that are open, by which the driver checks that they are its own
        self.hashes = {}
        self.lock = threading.Lock()
        self.taken = 0.0  # when somebody last took what was decided
        started = Future()
        threading.Thread(target=self.serve, args=[started], daemon=True).start()
        started.result()

    def __call__(self, batch):
        """Label a chunk.

        Yields the records of whatever is decided meanwhile, of this chunk or another.
        """
        rows = json.loads(batch["inputs"][0])
        waiting = {self.open.setdefault(index, Future()) for index, _ in rows}
        for index, messages in rows:
            self.hashes[index] = input_hash(messages)
            self.arriving.put((index, messages))
        while waiting:
            _, waiting = wait(waiting, EVERY)
            records = self.take(at_once=not waiting)
            if records:
                yield {"records": [json.dumps(records, ensure_ascii=False)]}

    def take(self, at_once: bool) -> list:
        """All (index, hash, record) that nobody has taken yet.

        None are given if some were taken just now, unless `at_once`.
        """
        with self.lock:
            if not at_once and time.monotonic() < self.taken + EVERY:
                return []
            self.taken = time.monotonic()
            return [self.decided.get() for _ in range(self.decided.qsize())]

    def serve(self, started: Future):
        """Label what arrives for ever; the process ends with its engine, and Ray starts another."""
        # a Ray actor spawns its engine, and a spawned process runs this file's __mp_main__:
        # it ends with this thread
        sys.modules["__main__"].__file__ = child.__file__
        try:
            engine = self.work.start()
        except BaseException as error:
            reason = f"{one_line(error)} on {platform.node()}"
            # what was refused before its start, such as a model not on this node
            if CANNOT_START not in reason:
                reason = f"{CANNOT_START}: {reason}"
            started.set_exception(RuntimeError(reason))  # Ray sends its last line to the driver
            return
        started.set_result(None)
        labelling = self.work.asking(engine)
        try:
            while True:
                rows = self.rows(self.arriving.get())
                for index, record in labelling.label(rows):
                    self.decided.put((index, self.hashes.pop(index), record))
                    self.open.pop(index).set_result(None)
        except BaseException:
            log.exception("the engine has ended")
            os._exit(1)

    def rows(self, row):
        """`row` and all that arrive after it; None while there is none."""
        while True:
            yield row
            try:
                row = self.arriving.get_nowait()
            except queue.Empty:
                row = None
