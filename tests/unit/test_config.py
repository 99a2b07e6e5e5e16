"""The configuration: defaults, faults told all at once, and documents that are made from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge.daemon.broker_settings import broker_settings, file_problems
from edge.daemon.config import Config
from edge.daemon.config_docs import reference_markdown, sample_toml, settings, tables
from edge.daemon.config_file import load_config, parse_config
from edge.errors import ConfigError

SAMPLE = Path(__file__).parents[2] / "systemd" / "ecg-edge.toml"


def parse(text: str, folder: Path = Path("/etc/ecg-edge")) -> Config:
    return parse_config(text, "test.toml", folder)


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return list(caught.value.problems)


def without_node(config: Config) -> dict[str, object]:
    """Everything but what depends on the host."""
    return {key: value for key, value in settings(config) if key not in ("node.name", "node.state_dir")}


def test_an_empty_configuration_is_the_defaults() -> None:
    config = parse("")
    assert config.broker.port == 1883
    assert config.streams.max_streams == 2000
    assert config.model.bundle is None
    assert config.broker.tls is None


def test_all_faults_are_told_at_once_each_with_its_key() -> None:
    problems = problems_of(
        """
        colour = "red"
        [node]
        name = "Ward 3"
        [broker]
        port = 70000
        keepalive_s = "20"
        [streams]
        evict_after_s = 1
        [alerts.classes.MI]
        on = 0.2
        off = 0.9
        [http]
        enabled = 1
        """
    )
    told = {re.split(r"[: ]", problem)[0] for problem in problems}
    assert told == {
        "colour",
        "node.name",
        "broker.port",
        "broker.keepalive_s",
        "streams",
        "alerts.classes.MI",
        "http.enabled",
    }
    assert any("evict_after_s must be above silent_after_s" in problem for problem in problems)
    assert any("70000" in problem and "65535" in problem for problem in problems)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("[broker]\nhots = 'x'", "did you mean host?"),
        ("[broker.tls]\nca_fil = 'x'", "did you mean ca_file?"),
        ("[alerts.classes.MI]\ndwel_s = 1", "did you mean dwell_s?"),
        ("[brokers]", "did you mean broker?"),
        ("[publish]\nzzz = 1", "the keys here are scores"),
        ("broker = 3", "written as [broker]"),
    ],
)
def test_a_wrong_key_is_answered_with_the_right_one(text: str, advice: str) -> None:
    (problem,) = problems_of(text)
    assert advice in problem


def test_a_secret_written_into_the_file_is_refused_and_not_repeated() -> None:
    (problem,) = problems_of("[broker]\npassword = 'hunter2'")
    assert "password_file" in problem
    assert "hunter2" not in problem


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[broker]\nusername = 'u'\npassword_file = 'a'\npassword_credential = 'b'", "not both"),
        ("[broker]\npassword_file = 'a'", "needs a username"),
        ("[broker]\nreconnect_min_s = 9.0\nreconnect_max_s = 1.0", "reconnect_max_s"),
        ("[broker.tls]\ncert_file = 'a'", "needs cert_file and one of"),
        ("[broker.tls]\nkey_credential = '../shadow'", "should match"),
        ("[alerts]\nupdate_every_s = 60.0\nexpires_s = 30.0", "expires_s must be above"),
        ("[streams]\ngap_bridge_s = nan", "finite"),
        ("[streams]\nsilent_after_s = 0", "greater than 0"),
    ],
)
def test_settings_that_contradict_each_other_or_sense_are_refused(text: str, said: str) -> None:
    assert any(said in problem for problem in problems_of(text))


def test_a_file_that_is_not_toml_is_told_with_its_line() -> None:
    (problem,) = problems_of("[broker]\nport = = 1")
    assert "line 2" in problem


def test_a_missing_file_and_a_binary_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(binary)


def test_the_environment_names_the_file_unless_one_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, given = tmp_path / "named.toml", tmp_path / "given.toml"
    named.write_text("[http]\nport = 1111\n")
    given.write_text("[http]\nport = 2222\n")
    monkeypatch.setenv("ECG_EDGE_CONFIG", str(named))
    assert load_config().http.port == 1111
    assert load_config(given).http.port == 2222
    monkeypatch.delenv("ECG_EDGE_CONFIG")
    assert load_config().http.port == 9109


def test_relative_paths_are_taken_from_the_file_and_not_from_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "etc" / "c.toml"
    file.parent.mkdir()
    file.write_text("[model]\nbundle = 'b'\n[node]\nstate_dir = '/var/x'\n")
    monkeypatch.chdir("/")
    config = load_config(file)
    assert config.model.bundle == tmp_path / "etc" / "b"
    assert config.node.state_dir == Path("/var/x")


def test_the_state_directory_of_systemd_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/ecg-edge")
    assert parse("").node.state_dir == Path("/var/lib/ecg-edge")


def test_the_sample_is_the_one_under_systemd() -> None:
    assert SAMPLE.read_text(encoding="utf-8") == sample_toml(), (
        "run: ecg-edge check-config --sample > systemd/ecg-edge.toml"
    )


def test_the_sample_as_it_stands_is_the_defaults() -> None:
    assert without_node(parse(sample_toml())) == without_node(parse(""))


def test_every_line_of_the_sample_is_valid_when_it_is_uncommented() -> None:
    keys_apart = ("#password_file", "#key_file")  # each excludes another key of the sample
    lines = [line for line in sample_toml().splitlines() if not line.startswith(keys_apart)]
    config = parse("\n".join(line[1:] if re.match(r"#[\[a-z]", line) else line for line in lines))
    assert config.broker.tls is not None
    assert config.alerts.classes["MI"].on == 0.7
    assert config.broker.password_credential == "mqtt-password"


def test_every_key_is_explained_in_the_sample_and_in_the_reference() -> None:
    reference = reference_markdown()
    for table in tables():
        assert f"[{table.path}]" in reference
        for name, field in table.plain_keys():
            assert field.title, name
            assert field.description, name
            assert f"| `{name}` |" in reference
            assert f"#{name} = " in sample_toml()


def test_a_password_comes_from_its_file_and_only_its_first_line(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("s3cret word\nsecond line\n")
    config = parse("[broker]\nusername = 'u'\npassword_file = 'pw'", tmp_path)
    settings_read = broker_settings(config)
    assert settings_read.password == "s3cret word"
    assert "s3cret" not in repr(settings_read)
    assert "s3cret" not in str(dict(settings(config)))


def test_a_password_comes_from_a_systemd_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse("[broker]\nusername = 'u'\npassword_credential = 'mqtt-password'")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ConfigError, match="LoadCredential"):
        broker_settings(config)
    assert file_problems(config.broker) == [], "outside the service nobody can tell"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "mqtt-password").write_text("\n")  # what the unit's default gives when there is no file
    (problem,) = file_problems(config.broker)
    assert "empty first line" in problem
    assert "LoadCredential=mqtt-password" in problem, "the folder it stands in is systemd's"
    (tmp_path / "mqtt-password").write_text("pw\n")
    assert broker_settings(config).password == "pw"


def test_a_password_that_another_user_wrote_says_what_may_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    config = parse("[broker]\nusername = 'u'\npassword_file = 'pw'", tmp_path)
    monkeypatch.setattr(Path, "open", refuse)  # root, who may run this, is refused nothing
    with pytest.raises(ConfigError, match="Permission denied; let this user read it, or under systemd name a cred"):
        broker_settings(config)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[node]\nstate_dir = '~no-such-user/x'", "home is not known"),
        ('[broker]\nusername = "u"\npassword_file = "a\\u0000b"', "null character"),
        ("a = " + "[" * 5000, "nested too deeply"),
        ("a = " + "9" * 5000, "cannot be read"),
    ],
)
def test_what_nobody_means_is_refused_as_anything_else(text: str, said: str) -> None:
    (problem,) = problems_of(text)
    assert said in problem


def test_files_that_are_missing_are_told_all_together(tmp_path: Path) -> None:
    config = parse(
        "[broker]\nusername = 'u'\npassword_file = 'pw'\n[broker.tls]\nca_file = 'ca'\ncert_file = 'c'\nkey_file = 'k'",
        tmp_path,
    )
    assert [problem.split(":")[0] for problem in file_problems(config.broker)] == [
        "broker.tls.ca_file",
        "broker.tls.cert_file",
        "broker.tls.key_file",
        "broker.password_file",
    ]


def test_the_transport_is_given_what_the_configuration_says(tmp_path: Path) -> None:
    config = parse(
        "[node]\nname = 'bed-1'\n[broker]\nhost = 'h'\nport = 8883\nprotocol = '3.1.1'\n"
        "[broker.tls]\nca_file = 'ca.pem'\n[streams]\nmax_payload_bytes = 4096",
        tmp_path,
    )
    given = broker_settings(config)
    assert (given.address, given.protocol, given.client_id) == ("h:8883", 311, "ecg-edge-bed-1")
    assert given.maximum_packet_bytes == 8 * 4096  # a broker drops larger ones in silence
    assert given.tls is not None
    assert given.tls.ca == tmp_path / "ca.pem"
