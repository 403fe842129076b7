import io
import tarfile
from pathlib import Path

import pytest

from isoform.errors import DescriptorError
from isoform.images.reference import kind_of, parse
from isoform.images.transfer import source_of

PIN = "sha256:" + "ab" * 32


def archive(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    return path


def test_a_relative_recipe_is_below_the_descriptors_folder(tmp_path):
    found = parse("images/web.yaml", tmp_path)
    assert (found.key, found.path, found.pin) == (f"{tmp_path}/images/web.yaml", tmp_path / "images/web.yaml", "")


def test_a_layouts_tag_is_told_from_its_path(tmp_path):
    (tmp_path / "lay").mkdir()
    (tmp_path / "odd:name").mkdir()
    found = parse("./lay:v1.2", tmp_path)
    assert (found.path, found.tag, found.key) == (tmp_path / "lay", "v1.2", f"{tmp_path}/lay:v1.2")
    odd = parse("./odd:name", tmp_path)
    assert (odd.path, odd.tag) == (tmp_path / "odd:name", "")


def test_a_pin_is_taken_off_a_file_and_left_on_a_registrys_image(tmp_path):
    assert parse(f"./x.tar@{PIN}", tmp_path).pin == PIN
    assert parse(f"./x.tar@{PIN}", tmp_path).key == f"{tmp_path}/x.tar"
    pulled = parse(f"docker://quay.io:5000/a/b:1@{PIN}", tmp_path)
    assert (pulled.pin, pulled.transport) == ("", "docker")
    assert source_of(pulled, "docker") == f"docker://quay.io:5000/a/b@{PIN}"


@pytest.mark.parametrize("text, transport", [
    ("oci:lay:tag", "oci"), ("oci-archive:x.tar", "oci-archive"), ("docker-archive:x.tar:web:1", "docker-archive")])
def test_transports_name_files(tmp_path, text, transport):
    found = parse(text, tmp_path)
    assert found.transport == transport and found.path is not None and found.path.parent == tmp_path


def test_a_plain_word_is_a_name_unless_such_a_file_exists(tmp_path):
    assert parse("web", tmp_path).path is None
    (tmp_path / "web").mkdir()
    assert parse("web", tmp_path).path == tmp_path / "web"


@pytest.mark.parametrize("text, says", [
    ("", "no image is named"), ("docker://", "names nothing"), ("docker://a b", "names nothing"),
    ("http://x/y", "unknown kind, http://")])
def test_what_is_no_reference_is_refused(tmp_path, text, says):
    with pytest.raises(DescriptorError, match=says):
        parse(text, tmp_path)


def test_archives_are_told_apart_by_content(tmp_path):
    docker = archive(tmp_path / "a.tar", "abc.json", "manifest.json")
    oci = archive(tmp_path / "b.tar", "./oci-layout", "./index.json")
    both = archive(tmp_path / "c.tar", "oci-layout", "index.json", "manifest.json")
    assert [kind_of(parse(str(p), tmp_path)) for p in (docker, oci, both)] == [
        "docker-archive", "oci-archive", "docker-archive"]


def test_a_path_that_is_no_image_says_why(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("hello")
    archive(tmp_path / "other.tar", "README")
    for name, says in (("missing.yaml", "does not exist"), ("folder", "not an OCI image layout"),
                       ("text", "cannot be read as an archive"), ("other.tar", "is not an image")):
        with pytest.raises(DescriptorError, match=says) as caught:
            kind_of(parse(f"./{name}", tmp_path))
        assert caught.value.fix
