"""How what users type is understood: files, targets, options before and after a command, completion, logs' order."""

import os
import subprocess
import sys

import pytest

from isoform.cli.app import run
from isoform.cli.files import find_descriptor, looks_like_file
from isoform.cli.inside import variable, with_end_of_options
from isoform.cli.logs import Source, as_json_line, as_text, in_order, last
from isoform.cli.target import instance_of, split_target
from isoform.engine.journal import Journal, Row
from isoform.errors import DescriptorError
from isoform.model import LogLine


def test_file_is_found_by_its_usual_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DescriptorError, match=r"no service\.yaml or isoform\.yaml here"):
        find_descriptor(None)
    (tmp_path / "isoform.yaml").touch()
    assert find_descriptor(None).name == "isoform.yaml"
    (tmp_path / "service.yaml").touch()
    assert find_descriptor(None).name == "service.yaml"
    assert find_descriptor(tmp_path) == tmp_path / "service.yaml"
    assert find_descriptor(tmp_path / "isoform.yaml") == tmp_path / "isoform.yaml"
    with pytest.raises(DescriptorError, match=r"there is no file nowhere\.yaml"):
        find_descriptor(tmp_path.relative_to(tmp_path) / "nowhere.yaml")


@pytest.mark.parametrize(("text", "is_file"), [("edge", False), ("./edge", True), ("edge.yaml", True), (".", True),
                                               ("examples/edge", True), ("my-edge", False)])
def test_names_and_files_are_told_apart(text, is_file):
    assert looks_like_file(text) is is_file


@pytest.mark.parametrize(("given", "understood"), [
    (["edge/web", "ls", "-l"], ["edge/web", "--", "ls", "-l"]),
    (["edge/web", "--", "ls", "-l"], ["edge/web", "--", "ls", "-l"]),
    (["-e", "A=1", "edge/web", "--replica", "1", "ls", "--", "x"],
     ["-e", "A=1", "edge/web", "--replica", "1", "--", "ls", "--", "x"]),
    (["edge/web", "-t", "-eA=1", "sh", "-c", "x"], ["edge/web", "-t", "-eA=1", "--", "sh", "-c", "x"]),
    (["edge/web"], ["edge/web"]),
    ([], []),
])
def test_options_of_exec_end_where_the_command_begins(given, understood):
    assert with_end_of_options(given, frozenset({"-e", "--env", "--replica"})) == understood


@pytest.mark.parametrize(("text", "parts"), [("edge", ("edge", "")), ("edge/web", ("edge", "web"))])
def test_target_is_service_or_function(text, parts):
    assert split_target(text) == parts


@pytest.mark.parametrize("text", ["", "/web", "a/b/c"])
def test_target_that_is_none_is_refused(text):
    with pytest.raises(DescriptorError):
        split_target(text)


def test_instance_as_ps_shows_it_is_understood():
    assert instance_of("web-1", ["web"]) == ("web", 1)
    assert instance_of("web", ["web"]) is None
    assert instance_of("web-1", ["web", "web-1"]) is None  # a function of that very name
    assert instance_of("web-x", ["web"]) is None


def test_environment_of_exec():
    assert variable("A=b=c") == ("A", "b=c")
    for wrong in ("A", "=b"):
        with pytest.raises(DescriptorError):
            variable(wrong)


@pytest.mark.parametrize("form", ["web", "web=", "=vm"])
def test_form_option_that_names_no_form_is_refused(form, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    file = tmp_path / "service.yaml"
    file.touch()
    assert run(["up", str(file), "--form", form]) == 2
    assert f"--form {form} is not NAME=VALUE" in capsys.readouterr().err


def test_without_root_one_error_comes_first(monkeypatch, capsys):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["isoform", "up", "my service.yaml"])
    for arguments in (["up", "nowhere"], ["down", "x"], ["ps"], ["exec", "a/b", "c"], ["logs", "a"], ["doctor"],
                      ["image", "ls"], ["op", "ls"]):
        assert run(arguments) == 4
        shown = capsys.readouterr()
        assert shown.out == ""
        assert "error: isoform needs root for this\n" in shown.err
        assert "fix: run: sudo isoform up 'my service.yaml'\n" in shown.err
    assert run(["schema"]) == run(["version"]) == 0


WEB, DB = Source("edge", "web", 0, "web | "), Source("edge", "db", 1, "db-1 | ")


def test_log_lines_of_several_come_in_the_order_of_time():
    web = [LogLine("w1", at=1.0), LogLine("w2", at=None), LogLine("w3", at=5.0)]
    db = [LogLine("d1", at=0.5), LogLine("d2", at=2.0)]
    assert [line.text for _, line in in_order([WEB, DB], [web, db])] == ["d1", "w1", "w2", "d2", "w3"]


@pytest.mark.parametrize(("count", "kept"), [(None, "abc"), (0, ""), (2, "bc"), (9, "abc")])
def test_tail_keeps_the_last_lines(count, kept):
    assert "".join(line.text for line in last([LogLine(sign) for sign in "abc"], count)) == kept


def test_log_line_as_text_and_json():
    line = LogLine("GET / → 200", "stderr", 1_700_000_000.0)
    assert as_text(DB, line, True) == "db-1 | 2023-11-14T22:13:20.000Z GET / → 200"
    assert as_text(DB, LogLine("x"), True) == "db-1 | - x"
    assert as_text(DB, line, False) == "db-1 | GET / → 200"
    assert as_json_line(DB, line) == (
        '{"service": "edge", "function": "db", "replica": 1, "instance": "edge/db-1", '
        '"at": "2023-11-14T22:13:20.000Z", "stream": "stderr", "text": "GET / → 200"}')


def complete(home, words):
    """Return what the shell is offered for `words`, whose last one is being typed."""
    result = subprocess.run(
        [sys.executable, "-c", "from isoform.cli import main; main()"],
        env={"PATH": os.environ["PATH"], "_ISOFORM_COMPLETE": "complete_bash", "ISOFORM_HOME": str(home),
             "COMP_WORDS": f"isoform {words}", "COMP_CWORD": str(len(words.split(" ")))},
        capture_output=True, text=True, timeout=30)
    assert result.stderr == ""
    return result.stdout.split()


def test_completion_offers_names_from_the_journal(home):
    journal = Journal(home.path / "state.db")
    journal.keep_rows([Row("edge.web.0", "edge", "web", 0, "vm", "", "", (), ""),
                       Row("shop.db.0", "shop", "db", 0, "vm", "", "", (), "")])
    journal.close()
    assert complete(home.path, "ps ") == ["edge", "shop"]
    assert complete(home.path, "down e") == ["edge"]
    assert complete(home.path, "exec edge/") == ["edge/web"]
    assert complete(home.path, "logs ") == ["edge", "edge/web", "shop", "shop/db"]
    assert complete(home.path, "up x --form web=v") == ["web=vm"]
    assert complete(home.path, "im") == ["image"]
    assert complete(home.path, "up --dr") == ["--dry-run"]


def test_completion_offers_the_functions_of_the_file(home):
    file = home.path / "service.yaml"
    file.write_text("functions: {web: {}, gateway: {}}")
    assert complete(home.path, f"up {file} --form ") == ["gateway=", "web="]


def test_completion_is_silent_where_there_is_nothing(home):
    assert complete(home.path / "none", "ps ") == []
    assert not (home.path / "none").exists()
    (home.path / "state.db").write_text("no database")
    assert complete(home.path, "exec ") == []
    assert complete(home.path, f"up {home.path}/none.yaml --form ") == []
