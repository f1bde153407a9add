"""What becomes of a process whose partner is gone; with real processes in test_processes.py."""

import os
import subprocess
import sys

import jax
import pytest

from kfjax.train.engine import distributed
from kfjax.train.engine.distributed import together

AGENT = "E1128 19:19:42.212964   20188 coordination_service_agent.cc:289] Polled an error from coordination service.\n"
ABORT = """\
F1128 19:19:42.213106   20188 client.h:80] Terminating process because the JAX distributed service detected errors.
RPC: /xla.coordination.CoordinationService/PollForError [type.googleapis.com/tensorflow.CoordinationServiceError='']
*** Check failure stack trace: ***
    @     0x7fb352240634  absl::lts_20260107::log_internal::LogMessage::SendToLog()
"""
SERVICE = "E1128 19:19:42.212964   20188 coordination_service.cc:1549] "
UNHEALTHY = SERVICE + "The following tasks are unhealthy (stopped sending heartbeats):\n1\n"
LEADER = AGENT[:-1] + " Either the leader task was preempted/died/restarted unexpectedly or this task has issues.\n"
PREEMPTION = """\
W1128 19:19:42.2 20188 preemption_sync_manager.cc:123] Failed to watch for preemption: UNAVAILABLE.
Additional GRPC error information:
"""


def passed_on(text: str) -> str:
    command = [sys.executable, "-I", "-S", "-c", distributed._FILTER, "Run again"]
    return subprocess.run(command, input=text.encode(), stdout=subprocess.PIPE, check=True, timeout=60).stdout.decode()


@pytest.mark.parametrize("before, who", [
    (UNHEALTHY, "process 1 is gone"),
    (LEADER, "process 0 is gone"),
    (AGENT, "another process is gone or can't be reached"),
    (SERVICE + "Barrier failed: Task 12 heartbeat timeout.\n", "process 12 is gone"),
])  # fmt: skip
def test_an_abort_becomes_one_line(before, who):
    other = "W1128 19:19:42.2 20188 cpu_client.cc:1] Something else.\n"
    assert passed_on(other + before + ABORT) == f"{other}\nkfjax: error: {who}; this one ends too. Run again\n"


def test_other_words_are_passed_on():
    other = "F1128 19:19:42.2 20188 cpu_client.cc:1] Check failed.\n*** Check failure stack trace: ***\n"
    assert passed_on(other) == other
    assert passed_on(AGENT + other) == other + AGENT  # no abort came


def test_there_is_one_line_even_if_both_have_one():
    said = "kfjax: error: another process is gone\n"
    assert passed_on(AGENT + said + ABORT) == said
    assert passed_on(PREEMPTION + said) == said
    assert passed_on(PREEMPTION) == PREEMPTION  # nobody is gone
    assert passed_on(said + AGENT + ABORT) == said


class Ended(BaseException):
    pass


@pytest.mark.parametrize("error", [
    ValueError("UNKNOWN: Gloo AllGather failed: [tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:55958"),
    jax.errors.JaxRuntimeError("UNAVAILABLE: Task 1 heartbeat timeout. This indicates that the remote task has failed"),
    RuntimeError("NCCL operation ncclGroupEnd() failed: remote process exited or there was a network error"),
])  # fmt: skip
def test_a_failed_collective_ends_the_process_in_one_line(error, monkeypatch, capfd):
    def end(code):
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(type(error)), together():  # alone it is something else
        raise error
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(Ended, match="1"), together():
        raise error
    said = capfd.readouterr().err
    assert said.startswith("kfjax: error: another process is gone; this one ends too. Run the same commands again")
    assert said.count("\n") == 1
    with pytest.raises(ValueError, match="diverged"), together():
        raise ValueError("diverged")
