import os
from pathlib import Path

import pytest

from isoform.errors import DescriptorError
from isoform.images.debian import Package, _failure, host_release, source_lines
from isoform.images.mend import alternatives, status_of
from isoform.images.overlay import lay_files, place, sources_of
from isoform.images.recipe import FileEntry, read


def recipe(folder: Path, text: str) -> Path:
    path = folder / "web.yaml"
    path.write_text(text)
    return path


def test_a_recipe_is_read_with_modes_and_env_as_written(tmp_path):
    found, _ = read(recipe(tmp_path, """\
packages: [nginx-light]
files:
  /bin/x: {content: hi, mode: 0755}
  /bin/y: {content: hi, mode: 0o4755}
env: {PORT: 0080, ON: true, EMPTY: ""}
user: www-data
"""))
    assert found.files["/bin/x"] == FileEntry(content="hi", mode="0755")
    assert found.files["/bin/y"] == FileEntry(content="hi", mode="4755")
    assert found.env == {"PORT": "0080", "ON": "true", "EMPTY": ""}


@pytest.mark.parametrize("text, place, says", [
    ("packages: [curl]\npackges: [x]\n", "2:1", "unknown key `packges`"),
    ("packages: curl\n", "1:11", "must be a list"),
    ("packages: [curl, 7]\n", "1:18", "must be a text"),
    ("packages: [curl, Curl]\n", "1:18", "Curl"),
    ("packages: [curl]\nentrypoint: /bin/sh -c x\n", "2:13", "list of words"),
    ("packages: [curl]\nfiles:\n  etc/x: y\n", "2:1", "absolute path"),
    ("packages: [curl]\nfiles:\n  /a/../../x: y\n", "2:1", "absolute path"),
    ("packages: [curl]\nfiles:\n  /x: {content: a, link: b}\n", "3:7", "exactly one of"),
    ("packages: [curl]\nfiles:\n  /x: {content: a, mode: 0999}\n", "3:26", "0999"),
    ("packages: [curl]\nworkdir: srv\n", "2:10", "absolute path"),
    ("env: {A: b}\n", "1:1", "empty image"),
    ("packages: [\n", "", "not valid YAML"),
    ("", "1:1", "empty"),
])
def test_a_fault_is_told_with_its_place_and_remedy(tmp_path, text, place, says):
    path = recipe(tmp_path, text)
    with pytest.raises(DescriptorError) as caught:
        read(path)
    assert caught.value.what.startswith(f"{path}:{place}"), caught.value.what
    assert says in str(caught.value) and caught.value.fix


def test_a_recipe_that_is_not_there(tmp_path):
    with pytest.raises(DescriptorError, match="cannot be read"):
        read(tmp_path / "none.yaml")


def test_a_file_that_is_missing_is_told_with_its_place(tmp_path):
    path = recipe(tmp_path, "files:\n  /etc/motd: motd\n")
    found, document = read(path)
    with pytest.raises(DescriptorError) as caught:
        sources_of(found, document, tmp_path)
    assert caught.value.what == f"{path}:2:14: {tmp_path}/motd does not exist"


def test_a_package_that_does_not_exist_is_told_with_its_place(tmp_path):
    path = recipe(tmp_path, "packages:\n  - curl\n  - no-such\n")
    _, document = read(path)
    said = "I: running\nE: Unable to locate package no-such\nE: run_chroot failed"
    error = _failure(said, ["curl", "no-such"], "bookworm", document, tmp_path)
    assert isinstance(error, DescriptorError)
    assert error.what == f"{path}:3:5: package 'no-such' does not exist in bookworm"


LINKS = {"/bin": "usr/bin", "/var/run": "/run", "/a": "b/../c", "/loop": "loop"}


@pytest.mark.parametrize("path, real", [
    ("/bin/x", "/usr/bin/x"), ("/bin", "/bin"), ("/var/run/x/y", "/run/x/y"), ("/a/x", "/c/x"), ("/etc/x", "/etc/x")])
def test_a_file_goes_where_the_links_below_lead(path, real):
    assert place(path, LINKS) == real


def test_links_without_end_are_refused():
    with pytest.raises(ValueError, match="too many links"):
        place("/loop/x", LINKS)


def test_files_are_laid_with_plain_modes_and_the_folders_below_keep_theirs(tmp_path):
    (tmp_path / "www/sub").mkdir(parents=True)
    (tmp_path / "www/sub/run").write_text("#!/bin/sh")
    (tmp_path / "www/sub/run").chmod(0o700)
    (tmp_path / "www/index.html").write_text("page")
    (tmp_path / "www/index.html").chmod(0o600)
    path = recipe(tmp_path, "files:\n  /srv/www: www\n  /tmp/x: {content: x}\n  /bin/l: {link: ../y}\n")
    found, document = read(path)
    tree = tmp_path / "tree"
    tree.mkdir()
    mine = [os.getuid(), os.getgid()]
    lay_files(tree, found, document, {"/tmp": [0o1777, *mine], "/usr": [0o755, *mine], "/srv": [0o711, *mine],
                                      "/usr/bin": [0o755, *mine]}, {"/bin": "usr/bin"})
    modes = {str(p.relative_to(tree)): oct(p.lstat().st_mode & 0o7777) for p in tree.rglob("*") if not p.is_symlink()}
    assert modes == {"tmp": "0o1777", "tmp/x": "0o644", "usr": "0o755", "usr/bin": "0o755", "srv": "0o711",
                     "srv/www": "0o755", "srv/www/index.html": "0o644", "srv/www/sub": "0o755",
                     "srv/www/sub/run": "0o755"}
    assert (tree / "usr/bin/l").readlink() == Path("../y")


def test_the_hosts_own_release_is_the_default_suite():
    assert host_release('ID=ubuntu\nVERSION_CODENAME=jammy\n') == ("ubuntu", "jammy")
    assert host_release('ID="debian"\nVERSION_CODENAME="trixie"\n') == ("debian", "trixie")
    assert host_release("ID=arch\n") == ("debian", "bookworm")
    assert host_release("ID=debian\n") == ("debian", "bookworm")


def test_sources_are_the_hosts_own_without_third_parties():
    targets = """\
http://mirror/debian/|bookworm|main|Debian
http://mirror/debian/|bookworm|contrib|Debian
http://mirror/debian/|bookworm-updates|main|Debian
http://mirror/sec/|bookworm-security|main|
https://apt.example/|bookworm|main|Example
https://deb.node|nodistro|main|Node
"""
    assert source_lines(targets, "debian", "bookworm", "/k.gpg") == [
        "deb [signed-by=/k.gpg] http://mirror/debian/ bookworm main contrib",
        "deb [signed-by=/k.gpg] http://mirror/debian/ bookworm-updates main",
        "deb [signed-by=/k.gpg] http://mirror/sec/ bookworm-security main",
    ]
    assert source_lines("", "debian", "bookworm", "") == []


def test_alternatives_are_read_where_they_are_plain_words():
    iptables = """#!/bin/sh
set -e
if [ "$1" = configure ]; then
    update-alternatives \\
        --install /usr/sbin/iptables iptables /usr/sbin/iptables-legacy 10 \\
        --slave /usr/sbin/iptables-save iptables-save /usr/sbin/iptables-legacy-save
    update-alternatives --quiet --install /usr/sbin/iptables iptables /usr/sbin/iptables-nft 20 \\
        --slave /usr/sbin/iptables-save iptables-save /usr/sbin/iptables-nft-save \\
        --slave /usr/share/man/man8/x.8.gz x /usr/share/man/man8/y.8.gz
    update-alternatives --install /usr/bin/$name $name /usr/bin/x 10
    update-alternatives --remove y /usr/bin/y || true
fi
"""
    assert alternatives([iptables]) == [("/usr/sbin/iptables", "/usr/sbin/iptables-nft"),
                                        ("/usr/sbin/iptables-save", "/usr/sbin/iptables-nft-save")]


def test_the_status_file_says_installed():
    package = Package("curl", "7.88", "Package: curl\nVersion: 7.88\nDescription: x\n more\n", "")
    one = "Package: curl\nStatus: install ok installed\nVersion: 7.88\nDescription: x\n more\n"
    assert status_of([package, package]) == f"{one}\n{one}"
