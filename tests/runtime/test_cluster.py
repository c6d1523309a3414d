"""How a process finds its place in a job."""

import socket
import threading

import pytest

from weavejax.errors import UserError
from weavejax.runtime import cluster
from weavejax.runtime.cluster import Place, find_place

SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_NTASKS": "16",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_NODES": "2",
}


@pytest.fixture
def environment(monkeypatch):
    """Sets variables; none of a real job are left."""
    for name in (*SLURM, cluster.ADDRESS, cluster.COUNT, cluster.NUMBER, "JAX_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return lambda values: [monkeypatch.setenv(name, value) for name, value in values.items()]


def env(address="node0:1234", count="4", number="2"):
    return {cluster.ADDRESS: address, cluster.COUNT: count, cluster.NUMBER: number}


def test_a_process_on_its_own(environment):
    assert find_place("auto") is None
    assert find_place("none") is None
    environment(env(count="1", number="0"))
    assert find_place("auto") is None


def test_three_variables(environment):
    environment(env())
    assert find_place("auto") == Place("node0:1234", 4, 2, None, "env")
    assert find_place("none") is None


def test_a_slurm_step(environment):
    environment(SLURM)
    place = find_place("auto")
    assert place is not None
    assert (place.processes, place.number, place.devices) == (16, 9, (1,))
    assert place.address.startswith("gpu03:")
    environment({"JAX_COORDINATOR_ADDRESS": "10.0.0.3:999"})
    assert find_place("slurm").address == "10.0.0.3:999"
    environment({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"})
    assert find_place("auto") is None


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        ("slrum", {}, "'slrum' is none of auto, slurm"),
        ("slurm", {}, "this process is not in one"),
        ("env", {}, "the environment lacks WEAVEJAX_COORDINATOR"),
        ("auto", {cluster.ADDRESS: "a:1"}, "lacks WEAVEJAX_PROCESSES, WEAVEJAX_PROCESS"),
        ("auto", env(number="4"), "needs host:port and 0 ≤ process < processes"),
        ("auto", env(address="node0"), "needs host:port"),
        ("auto", env(count="four"), "needs host:port"),
    ],
)
def test_what_is_missing_or_wrong_is_named(environment, kind, values, words):
    environment(values)
    with pytest.raises(UserError, match=words):
        find_place(kind)


def test_a_name_that_resolves_to_loopback_is_refused(monkeypatch):
    found = [(socket.AF_INET, 0, 0, "", ("127.0.1.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
    with pytest.raises(UserError, match=r"node7 resolves to 127\.0\.1\.1 here, which other hosts"):
        cluster._refuse_loopback(Place("node7:1", 2, 0, None, "SlurmCluster"))
    cluster._refuse_loopback(Place("localhost:1", 2, 0, None, "env"))


def test_the_roll_call_lets_all_go_on_when_the_last_has_come():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    places = [Place(f"127.0.0.1:{port}", 3, number, None, "env") for number in range(3)]
    threads = [
        threading.Thread(target=cluster._answer_roll_call, args=(place,)) for place in places[1:]
    ]
    for thread in threads:  # before process 0 listens: they ask again
        thread.start()
    stranger = threading.Thread(target=knock, args=(port,))
    stranger.start()
    cluster._call_roll(places[0])
    for thread in (*threads, stranger):
        thread.join(10)
        assert not thread.is_alive()


def knock(port):
    """Somebody who is not of the job."""
    for _ in range(100):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return
        except OSError:
            threading.Event().wait(0.05)
