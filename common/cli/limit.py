"""A time after which whatever is at work is interrupted, as by Ctrl-C."""

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Limit:
    reached = False


@contextmanager
def interrupted_after(seconds: float) -> Iterator[Limit]:
    """Interrupt the block, as Ctrl-C would, when its time is over; that is no error."""
    limit, main_thread = Limit(), threading.main_thread().ident

    def interrupt() -> None:
        limit.reached = True
        if hasattr(signal, "pthread_kill"):  # a real signal also ends what waits in the system
            signal.pthread_kill(main_thread, signal.SIGINT)
        else:
            _thread.interrupt_main()

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    # a shell that starts this in the background has it ignore Ctrl-C
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        yield limit
    except KeyboardInterrupt:
        if not limit.reached:
            raise
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
