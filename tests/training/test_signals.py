from __future__ import annotations

import signal
import threading

import pytest

from scedit_cli.training.signals import terminable, undisturbed


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
