"""Calls that may hang or take all the memory, made in a process of their own that can be ended.

Notable: the process is started once and serves call after call; what it imports is paid for once. It is not a child of
`multiprocessing`, which would run the caller's script a second time, and it looks after itself: it leaves when its
parent does, and, should its parent be killed while it hangs, a while after its time is over.
"""

import contextlib
import faulthandler
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import psutil

LOOK_EVERY = 0.05  # seconds between two looks at a call's time and memory
MOST = 10**6  # seconds or gigabytes of a limit
STARTUP = 300.0  # seconds in which the process must have imported what it needs


@dataclass(frozen=True)
class Limits:
    """What one call may take. gigabytes: of resident memory, of which the interpreter and its libraries need one.

    Raises ValueError for a limit that is not above 0, or beyond `MOST`.
    """

    seconds: float = 120.0
    gigabytes: float = 4.0

    def __post_init__(self):
        for name, value in {"seconds": self.seconds, "gigabytes": self.gigabytes}.items():
            if not 0 < value <= MOST:
                raise ValueError(f"{name} must be above 0, and {MOST:,} at most, not {value}")


class LimitError(RuntimeError):
    """A call that took too much or ended its process; the message says which."""


class Guarded:
    """`call`, made in another process within `limits`; call and arguments must be picklable.

    Raises LimitError where a call was ended or ended its process (the next one gets a new process), and whatever the
    call raises. One call at a time. `close` ends the process.
    """

    def __init__(self, call: Callable[..., Any], limits: Limits):
        self._call, self._limits, self._process = call, limits, None

    def __call__(self, *arguments: Any) -> Any:
        if self._process is None:
            self._start()
        try:
            _send(self._process.stdin, arguments)
        except OSError:
            return self._lost()
        return self._wait(self._limits.seconds)

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._reader.join()
            self._process = None

    def _start(self) -> None:
        code = f"import sys; sys.path[:] = {sys.path!r}; from vfusion3d.data.guard import serve; serve()"
        self._process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._answers: queue.Queue = queue.Queue()
        self._reader = threading.Thread(target=_read_all, args=(self._process.stdout, self._answers), daemon=True)
        self._reader.start()
        _send(self._process.stdin, (self._call, self._limits.seconds))
        self._wait(STARTUP)

    def _wait(self, seconds: float) -> Any:
        end, watched = time.monotonic() + seconds, psutil.Process(self._process.pid)
        while True:
            try:
                answer = self._answers.get(timeout=LOOK_EVERY)
            except queue.Empty:
                with contextlib.suppress(psutil.NoSuchProcess):
                    if watched.memory_info().rss > self._limits.gigabytes * 1e9:
                        self.close()
                        raise LimitError(f"took more than {self._limits.gigabytes:g} GB of memory") from None
                if time.monotonic() > end:
                    self.close()
                    raise LimitError(f"took more than {seconds:g} s") from None
                continue
            except BaseException:
                self.close()
                raise
            if answer is None:
                return self._lost()
            kind, value = answer
            if kind == "error":
                raise value
            return value

    def _lost(self) -> None:
        code = self._process.wait()
        self.close()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        raise LimitError(f"ended the process that read it ({how})")


def serve() -> None:
    """The other process: one call after another, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # its parent is told, and ends it
    source, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    silence = open(os.devnull, "w")  # noqa: SIM115
    try:
        call, seconds = _receive(source)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        _send(answers, ("value", None))
        while True:
            arguments = _receive(source)
            faulthandler.dump_traceback_later(2 * seconds + 60, exit=True, file=silence)
            try:
                answer = ("value", call(*arguments))
            except MemoryError:
                os._exit(1)
            except Exception as error:
                answer = ("error", error)
            faulthandler.cancel_dump_traceback_later()
            try:
                _send(answers, answer)
            except (pickle.PicklingError, TypeError, AttributeError):
                _send(answers, ("error", RuntimeError(f"{type(answer[1]).__name__}: {answer[1]}")))
    except (EOFError, OSError):
        os._exit(0)


def _read_all(source: BinaryIO, answers: queue.Queue) -> None:
    with source, contextlib.suppress(EOFError, OSError):
        while True:
            answers.put(_receive(source))
    answers.put(None)


def _send(file: BinaryIO, value: Any) -> None:
    data = pickle.dumps(value)
    file.write(struct.pack("<Q", len(data)) + data)
    file.flush()


def _receive(file: BinaryIO) -> Any:
    (length,) = struct.unpack("<Q", _exactly(file, 8))
    return pickle.loads(_exactly(file, length))


def _exactly(file: BinaryIO, length: int) -> bytes:
    data = file.read(length)
    if len(data) < length:
        raise EOFError
    return data
