"""Debian packages as folders: download through apt, check against its signed lists, unpack without installing.

Runs no maintainer script and changes nothing of the machine but the cache folder that it is given.
"""
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile


class Refused(Exception):
    """Something is missing or failed; the message is all that the caller sees."""


def run(*command, **options):
    """Runs a tool and returns what it printed; its error output becomes the message when it fails."""
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True,
                              env={**os.environ, "LC_ALL": "C"}, **options)
    except FileNotFoundError as missing:
        raise Refused(f"`{command[0]}` is not installed") from missing
    except subprocess.CalledProcessError as failed:
        raise Refused(f"`{' '.join(map(str, command))}` failed:\n{failed.stderr.strip()}") from failed
    return done.stdout


def file_digest(path):
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def closure(packages):
    """The packages with all they depend on, without what is only recommended."""
    listed = run("apt-cache", "depends", "--recurse", "--important", *packages)
    return sorted({line for line in listed.splitlines() if line[:1].isalnum()})


def download(packages, cache):
    """The .deb files of the packages, from the cache where the digest of apt's lists agrees. Returns [(path, digest)]."""
    try:
        uris = run("apt-get", "download", "--print-uris", *packages)
    except Refused as refused:
        raise Refused(f"{refused}\n(are the package lists there? `apt-get update` fetches them)") from refused
    debs = cache / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    found = {}
    for line in sorted(uris.splitlines()):
        _, name, _, digest = line.split()
        if not digest.startswith("SHA256:"):
            raise Refused(f"apt's lists have no SHA-256 for {name}")
        found[debs / name] = digest.removeprefix("SHA256:")
    missing = [path for path, wanted in found.items() if not path.exists() or file_digest(path) != wanted]
    if missing:
        names = [path.name.split("_")[0] for path in missing]
        print(f"  packages {' '.join(names)}", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=debs) as room:
            # Sandbox: apt's own user may not write into a private cache folder, and says so loudly.
            run("apt-get", "-o", "APT::Sandbox::User=root", "download", *names, cwd=room)
            for path in missing:
                os.replace(pathlib.Path(room) / path.name, path)
        for path in missing:
            if file_digest(path) != found[path]:
                raise Refused(f"{path} is not what apt's lists announce")
    return list(found.items())


def unpack(packages, cache):
    """A folder with the packages unpacked, kept by the digests of their files."""
    debs = download(packages, cache)
    key = hashlib.sha256(" ".join(digest for _, digest in debs).encode()).hexdigest()[:16]
    tree = cache / "trees" / key
    if not tree.exists():
        tree.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=tree.parent) as room:
            root = pathlib.Path(room) / "root"
            for path, _ in debs:
                run("dpkg", "--extract", path, root)
            try:
                os.rename(root, tree)
            except OSError:
                if not tree.exists():  # otherwise another build was faster, with the same content
                    raise
    return tree
