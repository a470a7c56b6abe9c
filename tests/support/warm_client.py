"""A program that begins warm, by ``tests/support/warm.py``: its first word is the function to call there.

Nothing but what starts in a moment is imported here.
"""

import json
import os
import signal
import socket
import sys

there = []
for number in range(3):
    try:
        os.fstat(number)
        there.append(number)
    except OSError:
        pass
options = [word for word in sys.argv[1:2] if word == "-W"]
body = json.dumps({
    "words": sys.argv[1 + len(options):], "options": options, "open": there, "folder": os.getcwd(),
    "environment": dict(os.environ),
}).encode()  # fmt: skip
program = socket.socket(socket.AF_UNIX)
program.connect(os.environ["WARM_PROGRAMS"])
socket.send_fds(program, [b"%8d" % len(body)], there)
program.sendall(body)
for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(each, lambda got, _: program.send(bytes([got])))
for number in there:
    os.close(number)
code = int(program.recv(8) or b"1")
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
