#!/usr/bin/env python3
"""Tests of deploy/images/build; run `python3 deploy/images/build_test.py`. Needs what the build itself needs, and cc."""
import hashlib
import json
import os
import pathlib
import subprocess
import tarfile
import tempfile
import unittest

BUILD = pathlib.Path(__file__).with_name("build")
IMAGES = ("operator", "server", "registry", "pause", "client", "hub", "coredns")


class Archive:
    """An image archive, taken apart; every blob is checked against its digest."""

    def __init__(self, image):
        with tarfile.open(image["archive"]) as tar:
            self.members = tar.getmembers()
            files = {member.name: tar.extractfile(member).read() for member in self.members}
        for name, data in files.items():
            if name.startswith("blobs/sha256/"):
                assert hashlib.sha256(data).hexdigest() == name.rpartition("/")[2], name
        self.index = json.loads(files["index.json"])
        blob = lambda descriptor: files["blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")]  # noqa: E731
        self.manifest = json.loads(blob(self.index["manifests"][0]))
        self.config = json.loads(blob(self.manifest["config"]))
        self.layers = []
        for descriptor in self.manifest["layers"]:
            assert len(blob(descriptor)) == descriptor["size"]
            with tempfile.TemporaryFile() as file:
                file.write(blob(descriptor))
                file.seek(0)
                with tarfile.open(fileobj=file) as tar:
                    self.layers.append({m.name: (m, tar.extractfile(m).read() if m.isfile() else None)
                                        for m in tar.getmembers()})

    def files(self):
        return {name: entry for layer in self.layers for name, entry in layer.items()}


class ImagesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.room = tempfile.TemporaryDirectory()
        root = pathlib.Path(cls.room.name)
        cls.binaries, cls.model = root / "binaries", root / "model.gguf"
        cls.binaries.mkdir()
        cls.compile("int main(void) { return 0; }", ("operator", "server", "registry"))
        cls.model.write_bytes(b"GGUF of a test")
        cls.listing = cls.build(root / "out")
        cls.archives = {name: Archive(image) for name, image in cls.listing.items()}

    @classmethod
    def tearDownClass(cls):
        cls.room.cleanup()

    @classmethod
    def compile(cls, text, programs):
        for program in programs:
            subprocess.run(["cc", "-g", "-x", "c", "-o", cls.binaries / f"windlass-{program}", "-"],
                           input=text, text=True, check=True)

    @classmethod
    def run_build(cls, *arguments):
        return subprocess.run([BUILD, *map(str, arguments)], capture_output=True, text=True, check=False)

    @classmethod
    def build(cls, out, images=IMAGES):
        done = cls.run_build(*images, "--out", out, "--bin-dir", cls.binaries, "--model", f"org/repo/m.gguf={cls.model}",
                             "--coredns", cls.binaries / "windlass-server")
        assert done.returncode == 0, done.stderr
        return json.loads((out / "images.json").read_text())

    def test_two_builds_give_identical_archives(self):
        again = self.build(pathlib.Path(self.room.name) / "again")
        for name in IMAGES:
            self.assertEqual(again[name]["ref"], self.listing[name]["ref"])
            one, two = (pathlib.Path(listing[name]["archive"]).read_bytes() for listing in (self.listing, again))
            self.assertEqual(hashlib.sha256(one).digest(), hashlib.sha256(two).digest(), name)

    def test_unchanged_content_is_not_written_again_and_changed_content_replaces_it(self):
        out = pathlib.Path(self.room.name) / "changing"
        first = self.build(out, ["registry", "pause"])
        times = {name: os.stat(image["archive"]).st_mtime_ns for name, image in first.items()}
        self.compile("int main(void) { return 1; }", ("registry",))
        second = self.build(out, ["registry", "pause"])
        self.compile("int main(void) { return 0; }", ("registry",))
        self.assertEqual(second["pause"], first["pause"])
        self.assertEqual(os.stat(second["pause"]["archive"]).st_mtime_ns, times["pause"])
        self.assertNotEqual(second["registry"]["ref"], first["registry"]["ref"])
        self.assertFalse(os.path.exists(first["registry"]["archive"]))

    def test_an_image_is_named_by_the_digest_of_its_manifest(self):
        for name, archive in self.archives.items():
            described = archive.index["manifests"][0]
            tag = described["digest"].removeprefix("sha256:")[:12]
            self.assertEqual(self.listing[name]["ref"], f"windlass.dev/{name}:{tag}")
            self.assertEqual(described["annotations"]["io.containerd.image.name"], self.listing[name]["ref"])

    def test_every_layer_is_the_one_that_the_configuration_names(self):
        for archive in self.archives.values():
            self.assertEqual(archive.config["rootfs"]["diff_ids"], [layer["digest"] for layer in archive.manifest["layers"]])

    def test_entries_are_sorted_without_time_owner_or_special_modes(self):
        for name, archive in self.archives.items():
            for layer in archive.layers:
                self.assertEqual(list(layer), sorted(layer))
                for path, (member, _) in layer.items():
                    self.assertEqual((member.mtime, member.uid, member.gid, member.uname), (0, 0, 0, ""), path)
                    allowed = {0o1777} if path == "tmp" else {0o777} if member.issym() else {0o755, 0o644}
                    self.assertIn(member.mode, allowed, f"{name}: {path}")
                    parent = path.rpartition("/")[0]
                    self.assertTrue(not parent or parent in layer, f"{name}: {path} comes before its folder")

    def test_every_image_runs_as_a_user_without_privilege(self):
        for archive in self.archives.values():
            self.assertEqual(archive.config["config"]["User"], "65532:65532")

    def test_the_entrypoint_is_in_the_image_and_stripped(self):
        for name in ("operator", "server", "registry", "hub"):
            files, entrypoint = self.archives[name].files(), self.archives[name].config["config"]["Entrypoint"]
            member, program = files[entrypoint[0].lstrip("/")]
            self.assertEqual(member.mode, 0o755)
            self.assertTrue(program.startswith(b"\x7fELF") and b".debug_info" not in program, name)
        self.assertEqual(self.archives["hub"].config["config"]["Entrypoint"][1:], ["serve", "--root", "/models"])

    def test_the_hub_carries_its_model(self):
        self.assertEqual(self.archives["hub"].files()["models/org/repo/m.gguf"][1], b"GGUF of a test")

    def test_images_share_the_base_layer_with_certificates_users_and_licences(self):
        base = {archive.manifest["layers"][0]["digest"] for name, archive in self.archives.items()
                if name not in ("pause", "coredns")}
        self.assertEqual(len(base), 1)
        files = self.archives["server"].files()
        self.assertGreater(files["etc/ssl/certs/ca-certificates.crt"][1].count(b"BEGIN CERTIFICATE"), 50)
        self.assertIn(b":65532:65532:", files["etc/passwd"][1])
        for path in ("usr/share/doc/libc6/copyright", "usr/share/zoneinfo/Europe/Berlin", "etc/nsswitch.conf"):
            self.assertIn(path, files)

    def test_the_client_has_curl_and_a_shell(self):
        files = self.archives["client"].files()
        self.assertIn("usr/bin/curl", files)
        self.assertEqual(files["bin/sh"][0].linkname, "busybox")

    def test_what_is_missing_is_said_and_nothing_is_written(self):
        for arguments, words in [
            (["registry", "--bin-dir", "/nowhere"], "cargo build -p windlass-registry"),
            (["hub", "--bin-dir", self.binaries], "--model"),
            (["hub", "--bin-dir", self.binaries, "--model", "../x=/etc/passwd"], "ORG/REPO/FILE=PATH"),
            (["coredns"], "--coredns"),
            (["unknown"], "unknown image: unknown"),
            (["--tree", "bare", "/nowhere"], "base or client"),
        ]:
            out = pathlib.Path(self.room.name) / "nothing"
            done = self.run_build(*arguments, "--out", out)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(words, done.stderr)
            self.assertNotIn("Traceback", done.stderr)
            self.assertEqual([path for path in out.glob("*")], [])


if __name__ == "__main__":
    unittest.main()
