"""A server of ours for the length of a measurement, for the scripts beside this file."""
import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request


@contextlib.contextmanager
def served(model, *flags):
    """Gives address and process of a server that is ready; $WINDLASS_SERVER is the binary."""
    binary = os.environ.get("WINDLASS_SERVER", "target/release/windlass-server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [binary, "--model", model, "--listen", f"127.0.0.1:{port}", "--log", "warn", *flags]
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            while not is_ready(address):
                if process.poll() is not None:
                    sys.exit(f"the server ended: {' '.join(command)}")
                time.sleep(0.05)
            yield address, process.pid
        finally:
            process.terminate()


def is_ready(address):
    try:
        with urllib.request.urlopen(address + "/health/ready", timeout=5):
            return True
    except OSError:
        return False
