from __future__ import annotations

import signal
import threading

import pytest

from scedit_cli.training.signals import Stops, terminable, undisturbed


def test_ctrl_c_is_heard_after_the_body():
    done = False
    with pytest.raises(KeyboardInterrupt):
        with undisturbed():
            signal.raise_signal(signal.SIGINT)
            done = True
    assert done and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_ctrl_c_is_heard_at_once():
    done = False
    with pytest.raises(KeyboardInterrupt):
        with undisturbed():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            done = True
    assert not done


def test_a_signal_that_comes_while_processes_agree_waits_until_they_agree_on_it():
    steps, agreements = [], []

    def agreed(number: int) -> int:
        agreements.append(number)
        if len(agreements) == 1:
            signal.raise_signal(signal.SIGTERM)  # The others have been told that nothing came.
        return number

    with pytest.raises(SystemExit) as left, terminable(), Stops(agreed) as stops:
        for step in range(5):
            steps.append(step)
            stops.act()
    assert steps == [0, 1] and agreements == [0, signal.SIGTERM] and left.value.code == 143


def test_a_signal_of_another_process_is_acted_on():
    with pytest.raises(SystemExit) as left, terminable(), Stops(lambda number: signal.SIGTERM) as stops:
        stops.act()
    assert left.value.code == 143


def test_a_signal_acts_at_once_where_it_may():
    with pytest.raises(KeyboardInterrupt), Stops() as stops, stops.at_once():
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the signal was put off")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_after_the_last_step_is_not_lost():
    with pytest.raises(KeyboardInterrupt), Stops():
        signal.raise_signal(signal.SIGINT)


def test_sigterm_leaves_with_143():
    with pytest.raises(SystemExit) as left, terminable(), undisturbed():
        signal.raise_signal(signal.SIGTERM)
    assert left.value.code == 143 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_of_the_caller_stays():
    class Ended(KeyboardInterrupt):
        pass

    def end(*_):
        raise Ended

    signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(Ended), terminable(), undisturbed():
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is end
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_other_threads_are_left_alone():
    came = []

    def work():
        with terminable(), undisturbed():
            came.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert came == [True]
