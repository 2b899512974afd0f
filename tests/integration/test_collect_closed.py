"""Closed hours: compressed, sealed, late events beside them; every later change is found out."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support_events import OUTGOING, SIGN_INS, START, Clock, a_site, ran, suffix
from typer.testing import CliRunner

from mailferry.cli import app
from mailferry.events import stored
from mailferry.events.folder import files_of
from mailferry.events.seal import sealed_names
from mailferry.testing.population import Traits
from mailferry.testing.verify import compare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support_events import Site

    from mailferry.testing.population import Feed

HOUR = 3600
END = START + 3 * HOUR
TRAITS = Traits(rate=0.01, start=START, end=END, detail_bytes=100)
LATE = Traits(rate=0.02, start=START, end=END, late=0.3, late_by=1800, detail_bytes=100)


def paths(site: Site, feed: Feed) -> list[Path]:
    name = f"{feed.domain or 'global'}_{feed.type or 'auth'}_%Y-%m-%d_%H.log"
    folder = site.data_folder(feed)
    return [found.path for found in files_of(folder, name)] if folder.exists() else []


def run(site: Site, until: int, *, every: int = HOUR) -> None:
    """Runs up to that time; files are as old as the last run before, by the site's clock."""
    while site.clock.now < until:
        for feed in site.feeds:
            for path in paths(site, feed):
                os.utime(path, (site.clock.now, min(site.clock.now, path.stat().st_mtime)))
        site.clock.now += every
        assert site.collect().status == 0


def whole(site: Site, feed: Feed) -> None:
    """Nothing lost and nothing twice, whatever form the files have."""
    lines = [line for path in paths(site, feed) for line in stored.open_lines(path)]
    result = compare(site.provider.truth(feed, START, END), lines)
    assert (result.lost, result.twice) == (0, 0), result


def seals(site: Site) -> tuple[int, dict[str, object]]:
    """`mailferry verify --seals` of the one feed: exit status, and what it says of it."""
    ended = CliRunner().invoke(app, ["verify", "--seals", "--json", "--config", str(site.config)])
    (feed,) = json.loads(ended.stdout)["feeds"]
    return ended.exit_code, feed


def manifest_of(site: Site, feed: Feed) -> Path:
    (path,) = site.data_folder(feed).glob("*.seals")
    return path


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_an_hour_is_compressed_after_its_last_audit_and_read_by_all_that_comes_later(
    tmp_path: Path, how: str
) -> None:
    with a_site(tmp_path, {OUTGOING: LATE, SIGN_INS: LATE}, now=START) as site:
        site.configure(audit="1h", compress=how, split_interval=900)
        run(site, END + 12 * HOUR)
        for feed in site.feeds:
            endings = {path.suffix for path in paths(site, feed)}
            assert endings == {".gz" if how == "gzip" else ".zst"}
            whole(site, feed)
        # A position that was set back doubles nothing, and an audit finds what it wrote.
        assert site.compared(SIGN_INS).lost > 0, "the plain files are gone"


def test_what_is_compressed_keeps_the_time_of_its_last_change(tmp_path: Path) -> None:
    with a_site(tmp_path, {SIGN_INS: TRAITS}, now=START) as site:
        site.configure(audit="off", compress="gzip")
        run(site, END + 4 * HOUR)
        for path in paths(site, SIGN_INS):
            assert path.suffix == ".gz"
            assert START <= path.stat().st_mtime <= END + 2 * HOUR


def test_a_line_of_a_file_that_is_complete_never_changes_and_late_events_have_a_file(tmp_path: Path) -> None:
    """What a shipper that reads by inode and offset relies on."""
    with a_site(tmp_path, {SIGN_INS: LATE}, now=START) as site:
        site.configure(audit="1h", late="file", split_interval=900)
        seen: dict[tuple[int, str], bytes] = {}
        while site.clock.now < END + 6 * HOUR:
            run(site, int(site.clock.now) + 1, every=900)
            for path in paths(site, SIGN_INS):
                data = path.read_bytes()
                assert data.startswith(seen.get((path.stat().st_ino, path.name), b""))
                seen[path.stat().st_ino, path.name] = data
        names = [name for _, name in seen]
        assert len(names) == len(set(names)), "each name is one inode"
        assert any("_late" in name for name in names)
        whole(site, SIGN_INS)


def test_late_events_of_a_sealed_hour_go_into_a_file_of_their_own(tmp_path: Path) -> None:
    with a_site(tmp_path, {SIGN_INS: LATE}, now=START) as site:
        # Closed without waiting for what becomes visible later.
        site.configure(audit="off", seal="true", compress="gzip", look_back=60)
        run(site, END + 4 * HOUR)
        sealed = {path.name: path.read_bytes() for path in paths(site, SIGN_INS)}
        assert sealed
        site.configure(audit="1h", seal="true", compress="gzip", look_back=60)
        run(site, END + 8 * HOUR)
        whole(site, SIGN_INS)
        now = {path.name: path.read_bytes() for path in paths(site, SIGN_INS)}
        assert {name: now[name] for name in sealed} == sealed, "a sealed byte never changes"
        assert {name for name in now if "_late" in name}
        assert seals(site)[0] == 0


@pytest.fixture(scope="module")
def sealed_before(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with a_site(tmp_path_factory.mktemp("sealed"), {SIGN_INS: TRAITS}, now=START) as site:
        site.configure(audit="off", seal="true")
        run(site, END + 6 * HOUR)
        code, found = seals(site)
        assert (code, found["intact"], found["files"]) == (0, True, 3)
        yield site


@pytest.fixture
def sealed(sealed_before: Site, tmp_path: Path) -> Site:
    """The same in a folder of the test's own: quicker than to collect it."""
    shutil.copytree(sealed_before.folder, tmp_path, dirs_exist_ok=True)
    site = replace(sealed_before, folder=tmp_path, clock=Clock(sealed_before.clock.now))
    site.provider._clock = site.clock
    return site


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def flip_in(path: Path, number: int) -> None:
    """Another hash in one line of a manifest."""
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number] = lines[number].replace(b'"sha256":"', b'"sha256":"0')
    path.write_bytes(b"".join(lines))


def drop_line(path: Path, number: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[number]
    path.write_bytes(b"".join(lines))


def add_before(path: Path) -> None:
    """A file of an hour before the sealed ones."""
    path.with_name(path.name.replace(path.name[-17:-4], "2020-01-01_00")).write_bytes(b'{"key": "value"}\n')


@pytest.mark.parametrize(
    ("harm", "kind"),
    [
        (lambda file, _: flip(file), "changed"),
        (lambda file, _: file.write_bytes(file.read_bytes() + b"{}\n"), "changed"),
        (lambda file, _: drop_line(file, 1), "changed"),
        (lambda file, _: file.unlink(), "removed"),
        (lambda file, _: file.rename(file.with_name("kept.txt")), "renamed"),
        (lambda file, _: add_before(file), "added"),
        (lambda _, manifest: flip(manifest), "manifest"),
        (lambda _, manifest: drop_line(manifest, 0), "manifest"),
        (lambda _, manifest: drop_line(manifest, 1), "manifest"),
        (lambda _, manifest: drop_line(manifest, -2), "manifest"),
        (lambda _, manifest: manifest.write_bytes(manifest.read_bytes()[:-9]), "manifest"),
    ],
)
def test_what_was_done_to_a_sealed_file_or_to_the_manifest_is_found(
    sealed: Site, harm: Callable[[Path, Path], object], kind: str
) -> None:
    harm(paths(sealed, SIGN_INS)[1], manifest_of(sealed, SIGN_INS))
    code, found = seals(sealed)
    assert (code, found["intact"]) == (4, False)
    faults = found["faults"]
    assert isinstance(faults, list)
    page = (Path(__file__).parents[2] / "docs/reference/json.md").read_text("utf-8")
    page = page.partition("## `mailferry verify --seals`")[2].partition("\n## ")[0]
    assert {f"`{name}`" for name in [*found, *faults[0]]} <= set(re.findall("`[a-z_]+`", page))
    assert kind in {fault["kind"] for fault in faults}


def test_a_manifest_whose_end_was_cut_leaves_a_file_without_an_entry(sealed: Site) -> None:
    manifest = manifest_of(sealed, SIGN_INS)
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(lines[0] + lines[2][:0])
    middle = paths(sealed, SIGN_INS)[0]
    assert seals(sealed)[1]["files"] == 1
    middle_name = json.loads(lines[0])["file"]
    assert middle_name == middle.name
    # The head differs from the one that was logged, and printed by each check.
    assert seals(sealed)[1]["head"] == hashlib.sha256(lines[0][:-1]).hexdigest()


@pytest.mark.parametrize("harm", [lambda path: drop_line(path, 0), lambda path: flip_in(path, 1)])
def test_nothing_is_sealed_on_top_of_a_manifest_that_was_changed(
    tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    """Events go on being collected, and none goes into a file that any line of the manifest seals."""
    late = Traits(rate=0.02, start=START, end=END + 8 * HOUR, late=0.3, late_by=7000, detail_bytes=100)
    with a_site(tmp_path, {SIGN_INS: late}, now=START) as site:
        # Sealed without waiting for what becomes visible later; the audits then find that.
        site.configure(audit="off", seal="true", look_back=60)
        run(site, END + 2 * HOUR)
        manifest = manifest_of(site, SIGN_INS)
        harm(manifest)
        before = manifest.read_bytes()
        known = sealed_names(manifest)
        sealed = {path: path.read_bytes() for path in paths(site, SIGN_INS) if path.name in known}
        assert len(sealed) >= 2
        site.configure(audit="1h", seal="true", look_back=60, log_retention_days=1)
        found = 0
        for _ in range(5):
            site.clock.now += HOUR
            ended = site.collect()
            assert (ended.status, ended.of(SIGN_INS).status) == (4, "completed")
            assert any("mailferry verify --seals" in warning for warning in ended.of(SIGN_INS).warnings)
            assert "mailferry verify --seals" in site.heartbeat(SIGN_INS)["warning"]
            found += ended.of(SIGN_INS).metrics.audit_late
        assert found > 3, "late events of sealed hours were written"
        assert {path: path.read_bytes() for path in sealed} == sealed
        assert manifest.read_bytes() == before
        # What is old is deleted, but for sealed files: that they are gone would have to be put on record.
        site.clock.now += 2 * 86_400
        ended = site.collect()
        assert (ended.status, ended.of(SIGN_INS).status) == (4, "completed")
        assert any(f"{len(sealed)} kept" in warning for warning in ended.of(SIGN_INS).warnings)
        assert {path for path in paths(site, SIGN_INS) if path in sealed} == set(sealed)


def test_a_stranger_checks_files_and_manifest_with_sha256sum_alone(sealed: Site) -> None:
    folder, manifest = sealed.data_folder(SIGN_INS), manifest_of(sealed, SIGN_INS)
    previous = "0" * 64
    for line in manifest.read_bytes().splitlines():
        entry = json.loads(line)
        assert entry["previous"] == previous
        checked = subprocess.run(
            ["sha256sum", entry["file"]], cwd=folder, capture_output=True, text=True, check=True
        )
        assert checked.stdout.split()[0] == entry["sha256"]
        assert entry["lines"] == (folder / entry["file"]).read_bytes().count(b"\n")
        assert START <= entry["first"] <= entry["last"] < END
        previous = hashlib.sha256(line).hexdigest()
    assert seals(sealed)[1]["head"] == previous


def test_retention_is_put_on_record_so_that_it_does_not_look_like_removal(sealed: Site) -> None:
    sealed.configure(audit="off", seal="true", log_retention_days=1, split_interval=3600)
    sealed.clock.now += 3 * 86_400
    assert sealed.collect().status == 0
    code, found = seals(sealed)
    assert (code, found["files"], found["entries"]) == (0, 0, 6)


def test_a_torn_line_of_the_manifest_is_repaired_and_a_kill_between_the_steps_of_compressing_loses_nothing(
    tmp_path: Path,
) -> None:
    with a_site(tmp_path, {SIGN_INS: TRAITS}, now=START) as site:
        site.configure(audit="off", seal="true")
        run(site, END)
        plain = {path.name: path.read_bytes() for path in paths(site, SIGN_INS)}
        # As a kill leaves it: a compressed form that is torn, one that is whole beside its file, a torn line.
        first, second = list(paths(site, SIGN_INS))[:2]
        first.with_name(f".{first.name}.gz.tmp").write_bytes(gzip.compress(plain[first.name])[:20])
        second.with_name(f"{second.name}.gz").write_bytes(gzip.compress(b"older\n"))
        manifest = site.data_folder(SIGN_INS) / f"{site.position_file(SIGN_INS).stem}.seals"
        if manifest.exists():
            manifest.unlink()
        manifest.write_bytes(b'{"number":1,"fi')
        site.configure(audit="off", seal="true", compress="gzip")
        run(site, END + 6 * HOUR)
        assert {
            path.name.removesuffix(".gz"): gzip.decompress(path.read_bytes())
            for path in paths(site, SIGN_INS)
        } == plain
        assert seals(site)[0] == 0
        assert not list(site.data_folder(SIGN_INS).glob(".*.tmp"))


@contextmanager
def authority(folder: Path) -> Iterator[str]:
    """A time stamp authority made with openssl; yields its address. Its root is `ca.pem` in the folder."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Root", "-days", "30")
    openssl("req", *new, "-keyout", "tsa.key", "-out", "tsa.csr", "-subj", "/CN=Authority")
    (folder / "usage").write_text(
        "extendedKeyUsage=critical,timeStamping\nkeyUsage=critical,digitalSignature\n"
    )
    issue = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "usage", "-days", "30"]
    openssl("x509", "-req", "-in", "tsa.csr", *issue, "-out", "tsa.pem")
    (folder / "tsa.cnf").write_text(
        "[tsa]\ndefault_tsa=t\n[t]\nserial=serial\nsigner_cert=tsa.pem\ncerts=ca.pem\nsigner_key=tsa.key\n"
        "signer_digest=sha256\ndefault_policy=1.2.3.4\ndigests=sha256\naccuracy=secs:1\ness_cert_id_alg=sha256\n"
    )
    (folder / "serial").write_text("01\n")

    class Stamps(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            (folder / "query").write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
            openssl("ts", "-reply", "-config", "tsa.cnf", "-queryfile", "query", "-out", "reply")
            self.send_response(200)
            self.end_headers()
            self.wfile.write((folder / "reply").read_bytes())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Stamps) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def test_entries_are_time_stamped_and_openssl_alone_verifies_them(tmp_path: Path) -> None:
    folder = tmp_path / "authority"
    folder.mkdir()
    with authority(folder) as url, a_site(tmp_path, {SIGN_INS: TRAITS}, now=START) as site:
        options = {"audit": "off", "seal": "true", "timestamp_ca_file": folder / "ca.pem"}
        # While it is unreachable nothing is held up.
        site.configure(**options, timestamp_url="http://127.0.0.1:1/")
        run(site, END + 4 * HOUR)
        code, found = seals(site)
        assert code == 4
        assert "no time stamp yet" in str(found["faults"])
        site.configure(**options, timestamp_url=url)
        run(site, END + 6 * HOUR)
        assert seals(site)[0] == 0
        manifest = manifest_of(site, SIGN_INS)
        stamps = sorted(manifest.with_suffix(".timestamps").iterdir())
        lines = manifest.read_bytes().splitlines()
        assert len(stamps) == len(lines) == 3
        (folder / "entry").write_bytes(lines[1])
        checked = subprocess.run(
            [
                "openssl",
                "ts",
                "-verify",
                "-data",
                folder / "entry",
                "-in",
                stamps[1],
                "-CAfile",
                folder / "ca.pem",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Verification: OK" in checked.stdout + checked.stderr
        # A stamp of another line, or of an unknown authority, is found.
        stamps[0].write_bytes(stamps[1].read_bytes())
        code, found = seals(site)
        assert code == 4
        assert "time stamp" in str(found["faults"])


def test_a_feed_that_is_not_sealed_is_no_fault_but_asked_for_by_name_it_is(tmp_path: Path) -> None:
    with a_site(tmp_path, {SIGN_INS: TRAITS}, now=START) as site:
        site.configure()
        config = ("--config", str(site.config))
        ended = CliRunner().invoke(app, ["verify", "--seals", *config])
        assert (ended.exit_code, ended.stdout) == (0, "no feed is sealed\n")
        named = ran("verify", "--seals", suffix(SIGN_INS), *config)
        assert named.returncode == 2
        assert "set seal = true" in named.stderr
