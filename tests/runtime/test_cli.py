"""Command lines: what is right is parsed, what is wrong is one line that helps."""

import pytest

from weavejax.errors import UserError
from weavejax.runtime import cli

CONFIG = """
from ml_collections import ConfigDict

def get_config(variant=""):
    if variant not in ("", "large"):
        raise ValueError(f"no variant {variant!r}; there is large")
    return ConfigDict({"steps": 10, "rate": 0.5, "data": {"root": "", "on": True},
                       "size": 2 if variant else 1, "groups": ()})
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


def parse(*argv):
    return cli.parse(argv, "A door.", {"workdir": "where"}, takes_config=True)


def test_overrides_variants_and_own_flags(config_file):
    arguments = parse(
        f"--config={config_file}:large",
        "--config.steps=3",
        "--config.rate=2",
        "--config.data.root",
        "some/dir",
        "--noconfig.data.on",
        "--workdir=w",
    )
    config = arguments.config
    assert (config.steps, config.rate, config.size) == (3, 2.0, 2)
    assert (config.data.root, config.data.on) == ("some/dir", False)
    assert arguments.config_name == "tiny-large"
    assert arguments.values == {"workdir": "w"}


def test_config_and_value_as_two_words(config_file):
    arguments = parse("--config", str(config_file), "--config.steps", "4")
    assert arguments.config.steps == 4
    assert arguments.config_name == "tiny"


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--config.stepz=3"], ["unknown config key 'stepz'", "did you mean steps"]),
        (["--config.data.rot=x"], ["'data.rot'", "data.root"]),
        (["--config.steps=many"], ["steps", "many"]),
        (["--workdri=x"], ["unknown flag --workdri", "workdir"]),
        (["stray"], ["unexpected argument 'stray'"]),
    ],
)
def test_what_is_wrong_is_named(config_file, extra, words):
    with pytest.raises(UserError) as error:
        parse(f"--config={config_file}", *extra)
    for word in words:
        assert word in str(error.value)


def test_missing_config_file_variant_and_flag(config_file):
    with pytest.raises(UserError, match="--config is missing"):
        parse()
    with pytest.raises(UserError, match=r"no config file .*absent.py; there are .*tiny.py"):
        parse(f"--config={config_file.parent}/absent.py")
    with pytest.raises(UserError, match="no variant 'huge'; there is large"):
        parse(f"--config={config_file}:huge")


def test_a_config_file_that_fails_is_one_line(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("def get_config():\n    return 1 / 0\n")
    with pytest.raises(UserError, match="division by zero"):
        parse(f"--config={path}")


def test_help_lists_keys_and_values(config_file, capsys):
    with pytest.raises(SystemExit) as leaving:
        parse(f"--config={config_file}", "--help")
    assert leaving.value.code == 0
    printed = capsys.readouterr().out
    for word in ("A door.", "--workdir", "--config.data.root=''", "--config.steps=10"):
        assert word in printed


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (UserError("mend\nthis"), 2, "error: mend this\n"),
        (OSError(28, "No space left on device", "/x"), 2, "the disk is full (/x)"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_launch_turns_errors_into_one_line_and_a_status(error, status, words, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["door"])

    def door(argv):
        raise error

    with pytest.raises(SystemExit) as leaving:
        cli.launch(door)
    assert leaving.value.code == status
    assert words in capsys.readouterr().err


def test_launch_does_not_hide_bugs(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["door"])
    with pytest.raises(SystemExit) as left:
        cli.launch(lambda argv: 1 / 0)
    assert left.value.code == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
