"""Following a pod's log through cuts and restarts, and keeping it in the store."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from components.common.directory_store import DirectoryStore
from components.launcher import log_store, pod_logs
from components.launcher.connect import connect
from components.launcher.log_lines import Line, SeenLines
from components.launcher.log_store import StoredLog, read_log, stored_logs
from components.launcher.pod_logs import PodLog
from tests.support.api_server import Container, Fault

POD = "sft-master-0"


def stamp(seconds, nanoseconds=0):
    moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{nanoseconds:09d}Z"


class Reader:
    """Follows the pod of a test."""

    def __init__(self, server, seen=None):
        self.server, self.lines = server, []
        self.changed = threading.Condition()
        self.log = PodLog(
            connect(),
            lambda: server.objects.get("pods", {}).get(POD),
            self.changed,
            lambda line: self.lines.append(line.text),
            lambda: seen or SeenLines(),
        )
        self.log.start()

    def status(self, phase, restarts=0, **state):
        last = {"terminated": {"exitCode": 1}} if restarts else {}
        status = {"name": "pytorch", "restartCount": restarts, "state": state, "lastState": last}
        self.server.put("pods", pod(phase, containerStatuses=[status]))
        with self.changed:
            self.changed.notify_all()

    def all(self):
        self.log.join(30)
        assert not self.log.is_alive()
        return self.lines


def pod(phase, **status):
    return {"metadata": {"name": POD, "uid": "u"}, "status": {"phase": phase, **status}}


@pytest.fixture
def server(server):
    server.put("pods", pod("Pending"))
    return server


def ended(server, container=-1):
    with server.changed:
        server.logs[POD][container].ended = True
        server.changed.notify_all()


def test_a_log_is_waited_for_and_read_to_its_end(server):
    reader = Reader(server)
    server.logs[POD] = [Container([(stamp(n), f"line {n}") for n in range(50)])]
    reader.status("Running", running={})
    server.logs[POD][0].lines.append((stamp(60), "last"))
    ended(server)
    reader.status("Succeeded", terminated={})
    assert reader.all() == [*(f"line {n}" for n in range(50)), "last"]


@pytest.mark.parametrize("cuts", [[0], [1], [7, 0, 3], [49, 1, 1, 1]])
def test_nothing_is_lost_or_doubled_when_the_connection_is_cut(server, cuts):
    # Four lines a second, some of them alike, and some out of order by less than a second.
    lines = [(stamp(n // 4, (n % 4) * 100 if n % 5 else 50), f"line {n // 2}") for n in range(60)]
    server.logs[POD] = [Container(lines, ended=False, cuts=cuts)]
    reader = Reader(server)
    reader.status("Running", running={})
    server.wait_for(lambda: not server.logs[POD][0].cuts)
    ended(server)
    reader.status("Succeeded", terminated={})
    assert reader.all() == [text for _, text in lines]


def test_lines_that_are_alike_to_the_nanosecond_are_all_kept(server):
    lines = [(stamp(1), "same")] * 5
    server.logs[POD] = [Container(lines, cuts=[3, 4])]
    reader = Reader(server)
    reader.status("Running", running={})
    ended(server)
    reader.status("Succeeded", terminated={})
    assert reader.all() == ["same"] * 5


def test_the_end_of_a_container_that_was_restarted_is_read_though_the_connection_was_cut(server):
    server.logs[POD] = [Container([(stamp(n), f"first {n}") for n in range(10)], cuts=[4])]
    server.faults.append(Fault(r"/log\?.*follow=true", 500, times=0))
    reader = Reader(server)
    server.faults[0].times = 1000  # whoever follows gets nothing more until the restart
    reader.status("Running", running={})
    server.logs[POD][0].ended = True
    server.logs[POD].append(Container([(stamp(20 + n), f"second {n}") for n in range(3)], ended=True))
    server.faults[0].times = 0
    reader.status("Running", restarts=1, running={})
    reader.status("Succeeded", restarts=1, terminated={})
    assert reader.all() == [*(f"first {n}" for n in range(10)), *(f"second {n}" for n in range(3))]


def test_a_container_that_waits_to_be_restarted_has_been_read(server):
    server.logs[POD] = [Container([(stamp(1), "before the crash")], ended=True)]
    reader = Reader(server)
    status = {"name": "pytorch", "restartCount": 0, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    status["lastState"] = {"terminated": {"exitCode": 1}}
    server.put("pods", pod("Running", containerStatuses=[status]))
    with reader.changed:
        reader.changed.notify_all()
    reader.log.finish(10)
    assert reader.all() == ["before the crash"]


def test_errors_of_the_log_endpoint_are_survived(server):
    server.faults += [Fault("/log", 500, times=2), Fault("/log", 429), Fault("/log", 0)]
    server.logs[POD] = [Container([(stamp(1), "there")], ended=True)]
    reader = Reader(server)
    reader.status("Succeeded", terminated={})
    assert reader.all() == ["there"]


def test_a_line_after_a_long_silence_comes_at_once(server, monkeypatch):
    monkeypatch.setattr(pod_logs, "SILENCE_SECONDS", 1.2)  # after which the log is asked for again
    monkeypatch.setattr(pod_logs, "_PAUSES", (0.1, 60.0))
    server.logs[POD] = [Container()]
    reader = Reader(server)
    reader.status("Running", running={})
    server.wait_for(lambda: sum("/log" in request for request in server.requests) > 3)
    server.write_log(POD, "there")
    ended(server)
    reader.status("Succeeded", terminated={})
    assert reader.all() == ["there"]


def test_a_reader_goes_on_where_another_ended(server):
    server.logs[POD] = [Container([(stamp(n), f"line {n}") for n in range(20)], ended=True)]
    reader = Reader(server, SeenLines([Line(stamp(n), f"line {n}") for n in range(12)]))
    reader.status("Succeeded", terminated={})
    assert reader.all() == [f"line {n}" for n in range(12, 20)]


def test_a_pod_that_is_gone_ends_its_log(server):
    reader = Reader(server)
    server.drop("pods", POD)
    with reader.changed:
        reader.changed.notify_all()
    assert reader.all() == []


def test_seen_lines_do_not_grow_without_end_and_know_other_time_zones():
    seen = SeenLines()
    for n in range(5000):
        seen.begin()
        assert seen.is_new(Line(stamp(n), "x"))
        seen.begin()
        assert not seen.is_new(Line(stamp(n), "x"))
    assert len(seen._recent) < 100
    assert SeenLines([Line("2026-01-01T12:00:05.5+02:00", "x")]).since() == "2026-01-01T10:00:03Z"


def test_a_stored_log_grows_in_parts_and_is_read_back_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(log_store, "PART_BYTES", 300)
    store = DirectoryStore(tmp_path)
    lines = [Line(stamp(n), f"line {n} — ü") for n in range(40)]
    log = StoredLog(store, "work/logs", "sft-master-0.abcd")
    for line in lines[:25]:
        log.append(line)
        log.flush()
    again = StoredLog(store, "work/logs", "sft-master-0.abcd")  # the launcher was killed
    assert again.resume()[-1] == lines[24]
    for line in lines[25:]:
        again.append(line)
    again.flush()
    (parts,) = stored_logs(store, "work/logs").values()
    assert len(parts) > 3
    assert list(read_log(store, parts)) == lines
