"""Runs kernels for shim.py in a process that the sanitizers may end: calls come pickled on stdin, results leave so."""

import pickle
import signal
import sys

SECONDS = 60  # for one call; a kernel that loops for ever ends with it

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    import simt_kernels

    calls, results = sys.stdin.buffer, sys.stdout.buffer
    while calls.peek(1):
        name, arguments = pickle.load(calls)
        signal.alarm(SECONDS)
        try:
            answer = getattr(simt_kernels, name)(*arguments)
        except Exception as error:  # of the machine: it goes to the one who called
            answer = error
        signal.alarm(0)
        pickle.dump(answer, results)
        results.flush()
