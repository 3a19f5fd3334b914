import logging
from pathlib import Path

import pytest

from handler.settings import BadSettings, Settings
from tests.docs import settings_table


def test_the_defaults_are_the_reference_s() -> None:
    settings = Settings.from_environ({"CMD": "python main.py"})
    assert (settings.host, settings.port) == ("::", 3000)
    assert settings.comfy_url == "http://127.0.0.1:8188"
    assert settings.output_dir == Path("/opt/ComfyUI/output")
    assert settings.startup_timeout_s == 10


def test_an_unset_cmd_means_the_stand_in_and_an_empty_one_a_running_comfyui() -> None:
    assert Settings.from_environ({}).starts_comfyui
    assert Settings.from_environ({}).cmd is None
    assert not Settings.from_environ({"CMD": ""}).starts_comfyui
    assert not Settings.from_environ({"COMFYUI_URL": "http://gpu:8188"}).starts_comfyui


def test_the_stand_in_does_not_use_a_real_comfyui_s_folders() -> None:
    settings = Settings.from_environ({"COMFYUI_PORT_HOST": "8200"})
    assert settings.output_dir.parent.name == "comfyui-stand-in-8200"


def test_folders_follow_comfy_home_unless_they_are_set() -> None:
    settings = Settings.from_environ({"COMFY_HOME": "/srv/comfy", "INPUT_DIR": "/data/in"})
    assert (settings.input_dir, settings.output_dir) == (Path("/data/in"), Path("/srv/comfy/output"))


def test_comfyui_url_wins_over_address_and_port() -> None:
    settings = Settings.from_environ({"COMFYUI_URL": "http://gpu:1/", "COMFYUI_PORT_HOST": "2", "DIRECT_ADDRESS": "x"})
    assert settings.comfy_url == "http://gpu:1"


def test_an_ipv6_address_is_put_in_brackets() -> None:
    assert Settings.from_environ({"DIRECT_ADDRESS": "::1"}).comfy_url == "http://[::1]:8188"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "many"),
        ("PORT", "70000"),
        ("MAX_BODY_SIZE_MB", "0"),
        ("MAX_QUEUE_DEPTH", "-1"),
        ("STARTUP_CHECK_INTERVAL_S", "0"),
        ("LOG_LEVEL", "loud"),
        ("ALLOW_PRIVATE_URLS", "perhaps"),
        ("COMFYUI_URL", "gpu:8188"),
        ("PROMPT_TIMEOUT_S", "inf"),
        ("MAX_INPUT_SIZE_MB", "nan"),
        ("SHUTDOWN_GRACE_S", "10000000000"),
        ("API_KEYS", " , "),
        ("CMD", "  "),
        ("CMD", 'python "x'),
    ],
)
def test_a_bad_value_is_named_in_one_line(name: str, value: str) -> None:
    with pytest.raises(BadSettings, match=name) as caught:
        Settings.from_environ({name: value})
    assert "\n" not in str(caught.value)
    assert value in str(caught.value)


def test_a_password_in_a_bad_value_is_not_shown() -> None:
    with pytest.raises(BadSettings, match="HTTP_PROXY") as caught:
        Settings.from_environ({"HTTP_PROXY": "socks5://user:s3cr3t@proxy:1"})
    assert "s3cr3t" not in str(caught.value)


def test_an_empty_value_counts_as_unset() -> None:
    assert Settings.from_environ({"PORT": "", "WARMUP_PROMPT_FILE": ""}).port == 3000


def test_an_unknown_variable_close_to_a_known_one_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Settings.from_environ({"MAX_BODY_SIZE": "5", "HOSTNAME": "x", "PATH": "/bin"})
    assert [record.getMessage() for record in caplog.records] == [
        "MAX_BODY_SIZE is not a setting; did you mean MAX_BODY_SIZE_MB?"
    ]


def test_the_documentation_lists_every_variable_as_it_is() -> None:
    """`python -m tests.docs.settings_table` writes the page anew."""
    assert settings_table.FILE.read_text() == settings_table.text()
