"""A launcher that runs beside the test."""

import threading

from components.launcher import cluster_run

KEY = "0123456789abcdef"


class Launcher(threading.Thread):
    """Runs a step beside the test."""

    def __init__(self, job):
        super().__init__(daemon=True)
        self.job, self.error = job, None
        self.start()

    def run(self):
        try:
            cluster_run.run_on_cluster(self.job)
        except BaseException as error:
            self.error = error

    def result(self, seconds=60.0):
        self.join(seconds)
        assert not self.is_alive(), "the launcher does not end"
        return self.error

    def error_of(self, kind, seconds=60.0):
        error = self.result(seconds)
        assert type(error) is kind, repr(error)
        return str(error)
