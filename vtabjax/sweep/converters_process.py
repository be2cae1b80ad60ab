"""Runs the converters' command line with a standard input that is read ahead: converters_process.py PATH MODULE ...

They read what is written to it when they come to it. It ends when the process that started it does, however that ends,
and they with it. Not imported: `converters_client.COMMAND` runs it.
"""

import io
import os
import queue
import runpy
import sys
import threading

_lines: queue.SimpleQueue[str] = queue.SimpleQueue()


class _ReadAhead(io.TextIOBase):
    def readline(self, size: int | None = -1) -> str:  # type: ignore[override]
        return _lines.get()


def _read(stream: io.TextIOBase) -> None:
    for line in stream:
        _lines.put(line)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_read, args=(sys.stdin,), daemon=True).start()
    sys.stdin = _ReadAhead()
    sys.path[:0] = [sys.argv.pop(1), ""]  # "": modules of the folder that the program was started in
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
