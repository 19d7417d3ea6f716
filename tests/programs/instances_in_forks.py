"""create_data_instances.py, whose instances are forks of it, with the libraries at once."""

import os
import runpy
import signal
import sys
from types import SimpleNamespace

from distill.labels import instances
from forks import begin_as_process, fork_processes_from_here
from helpers import ROOT


def be_instance(command, stdout, stderr, env):
    """What a new Python would do that is given this command."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    begin_as_process(env)
    os.dup2(stdout.fileno(), 1)
    os.dup2(stderr.fileno(), 2)
    fork_processes_from_here()
    sys.argv = command[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")


class Instance:
    """What the script needs of subprocess.Popen."""

    def __init__(self, command, **settings):
        self.returncode = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                be_instance(command, **settings)
                code = 0
            except SystemExit as end:
                code = end.code
            finally:
                os._exit(code)

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


instances.subprocess = SimpleNamespace(Popen=Instance)
sys.path.insert(0, str(ROOT))
runpy.run_path(str(ROOT / "create_data_instances.py"), run_name="__main__")
