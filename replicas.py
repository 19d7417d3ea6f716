"""Step 1 past one machine: create_data.py --num_replicas N asks N engines, which are actors of Ray Data.

The driver reads the inputs and writes the journal; Ray Data hands out chunks of inputs, replaces a replica that is lost
and holds back when replicas are slow. Every node needs this repository and its environment under the same path.
"""

import json
import logging
import os
import queue
import sys
import threading
import warnings
from concurrent.futures import Future
from importlib.util import find_spec
from itertools import islice

from journal import read_inputs

log = logging.getLogger("create_data")
CHUNK = 32  # inputs that travel together, and are recorded when the last of them is decided
CHUNKS = 64  # that a replica holds at a time: enough to keep an engine's batch full


class ReplicasFailed(Exception):
    """The cluster cannot go on."""


def connect(args) -> None:
    """Join the cluster that RAY_ADDRESS names, or start a local one; raises ValueError without Ray or GPUs."""
    if not find_spec("ray"):
        raise ValueError("--num_replicas needs Ray; pip install -r requirements/ray.txt")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of this process and a local cluster
    warnings.filterwarnings("ignore", message=".*ray_remote_args. is deprecated")  # max_task_retries has no other way
    import ray

    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise ValueError(f"RAY_ADDRESS {os.environ.get('RAY_ADDRESS')}: {error}") from error
    kind, each = ("CPU", args.cpus_per_replica) if args.cpus_per_replica else ("GPU", args.tensor_parallel_size)
    there, needed = int(ray.cluster_resources().get(kind, 0)), each * args.num_replicas
    if there < needed:
        other = "" if args.cpus_per_replica else "; without GPUs pass --cpus_per_replica"
        raise ValueError(f"--num_replicas {args.num_replicas}: needs {needed} {kind}s, the cluster has {there}{other}")


def label_on_replicas(args, engine_flags: list[str], task, inputs, missing):
    """What create_data.label_rows() does, on replicas: yields (index, record) as chunks of inputs are decided.

    Chunks that were in flight where a replica is lost are asked again in another pass, by those that are left. Raises
    ReplicasFailed if a whole pass decides nothing.
    """
    import ray

    missing = missing.copy()
    while missing.any():
        left = int(missing.sum())
        try:
            for row in pass_over(args, engine_flags, task, inputs, missing).iter_rows():
                for index, record in json.loads(row["records"]):
                    missing[index] = False
                    yield index, record
        except ray.exceptions.RayError as error:
            raise ReplicasFailed(f"a replica failed: {last_line(error)}") from error
        if int(missing.sum()) == left:
            logs = ray._private.worker._global_node.get_logs_dir_path()
            raise ReplicasFailed(f"no replica could decide any of the last {left} inputs; see {logs}")


def last_line(error: Exception) -> str:
    """Of a message that Ray has put a traceback in front of."""
    return str(error).strip().splitlines()[-1]


def pass_over(args, engine_flags, task, inputs, missing):
    """A Ray dataset of the decided chunks of all missing inputs, which runs while it is read."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # a block for each chunk: the unit that Ray Data hands out
    context.max_errored_blocks = -1  # a lost replica's chunks are left for the next pass
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    resources = {"num_gpus": args.tensor_parallel_size}
    if args.cpus_per_replica:
        # without "nobind" each engine would bind its threads to all cores; in the replica's process it starts faster
        threads = {"OMP_NUM_THREADS": str(args.cpus_per_replica), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        threads["VLLM_ENABLE_V1_MULTIPROCESSING"] = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        resources = {"num_cpus": args.cpus_per_replica, "runtime_env": {"env_vars": threads}}
    chunks = ray.data.read_datasource(chunks_of(inputs.path, missing.copy()), num_cpus=0, override_num_blocks=1)
    return chunks.map_batches(
        Replica,
        batch_size=None,
        fn_constructor_args=[args, engine_flags, task],
        compute=ActorPoolStrategy(
            size=args.num_replicas,
            max_tasks_in_flight_per_actor=CHUNKS,
            max_concurrent_calls_per_actor=CHUNKS,
            enable_true_multi_threading=True,
        ),
        max_restarts=-1,  # it starts again where there is room
        max_task_retries=0,  # and what it held is not kept waiting for that
        **resources,
    )


def chunks_of(path: str, missing):
    """A Ray datasource that reads the missing inputs on the driver's machine, CHUNK of them in a row."""
    import pyarrow
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    class Chunks(Datasource):
        supports_distributed_reads = False

        def estimate_inmemory_data_size(self):
            return None

        def get_read_tasks(self, *args, **kwargs):
            metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ReadTask(read, metadata)]

    def read():
        rows = zip(range(len(missing)), read_inputs(path), strict=False)
        wanted = ((index, messages) for index, (_, messages) in rows if missing[index])
        while chunk := list(islice(wanted, CHUNK)):
            yield pyarrow.table({"inputs": [json.dumps(chunk, ensure_ascii=False)]})

    return Chunks()


class Replica:
    """One engine, which a thread of its own starts and steps; Ray Data calls it from many threads, a chunk in each."""

    def __init__(self, args, engine_flags: list[str], task):
        self.args, self.engine_flags, self.task = args, engine_flags, task
        self.arriving, self.decided, started = queue.SimpleQueue(), {}, Future()
        threading.Thread(target=self.serve, args=[started], daemon=True).start()
        started.result()

    def __call__(self, batch):
        rows = json.loads(batch["inputs"][0])
        futures = {index: Future() for index, _ in rows}
        self.decided.update(futures)
        for row in rows:
            self.arriving.put(row)
        records = [(index, future.result()) for index, future in futures.items()]
        return {"records": [json.dumps(records, ensure_ascii=False)]}

    def serve(self, started: Future):
        """Label what arrives for ever; the process ends with its engine, and Ray starts another."""
        import create_data

        # a Ray actor spawns its engine, and a spawned process runs this file's __mp_main__: it ends with this thread
        sys.modules["__main__"].__file__ = create_data.__file__
        try:
            engine_args = create_data.check_teacher(self.args, self.engine_flags, self.task)
            if self.args.tensor_parallel_size > 1:
                engine_args.distributed_executor_backend = engine_args.distributed_executor_backend or "mp"
            engine = create_data.start_engine(engine_args)
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        try:
            while True:
                rows = self.rows(self.arriving.get())
                for index, record in create_data.label_rows(self.args, engine, self.task, rows):
                    self.decided.pop(index).set_result(record)
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
