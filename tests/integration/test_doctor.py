"""`ecg-edge doctor` against real brokers and real directories."""

from __future__ import annotations

import asyncio
import errno
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest

from edge.cli import main
from edge.daemon.config import Config
from edge.daemon.config_file import parse_config
from edge.daemon.doctor import check_broker, check_clock, check_model, check_packages, check_sqlite, check_state_dir
from tests.helpers import eventually
from tests.integration.conftest import Certificates, StartBroker
from tests.logging_state import logging_restored
from tests.mosquitto import Mosquitto, ServerTls


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    with logging_restored():
        yield


def config_for(broker: Mosquitto, more: str = "") -> Config:
    text = f"[node]\nname = 'bed-1'\n[broker]\nhost = '127.0.0.1'\nport = {broker.port}\n{more}"
    return parse_config(text, "test.toml", Path("/"))


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_broker_that_accepts_is_ok(broker: Mosquitto, protocol: str) -> None:
    check = check_broker(config_for(broker, f"protocol = '{protocol}'"))
    assert (check.outcome, check.advice) == ("ok", "")
    assert f"MQTT {protocol} at 127.0.0.1:{broker.port}" in check.detail


def test_an_absent_broker_is_a_failure_with_advice(broker: Mosquitto) -> None:
    broker.stop()
    check = check_broker(config_for(broker))
    assert check.outcome == "fail"
    assert "refused" in check.detail
    assert check.advice


def test_a_wrong_password_is_told(start_broker: StartBroker, tmp_path: Path) -> None:
    guarded = start_broker(users={"edge": "right"})
    secret = tmp_path / "password"
    more = f"username = 'edge'\npassword_file = '{secret}'"
    secret.write_text("wrong\n")
    refused = check_broker(config_for(guarded, more))
    assert refused.outcome == "fail"
    assert "password" in refused.detail
    secret.write_text("right\n")
    assert check_broker(config_for(guarded, more)).outcome == "ok"
    secret.unlink()
    assert "broker.password_file" in check_broker(config_for(guarded, more)).detail


def test_a_certificate_of_a_stranger_is_told(start_broker: StartBroker, certificates: Certificates) -> None:
    secured = start_broker(tls=ServerTls(certificates.server, certificates.server))
    trusted = check_broker(config_for(secured, f"[broker.tls]\nca_file = '{certificates.ca}'"))
    assert trusted.outcome == "ok"
    assert "with TLS" in trusted.detail
    distrusted = check_broker(config_for(secured, f"[broker.tls]\nca_file = '{certificates.stranger_ca}'"))
    assert distrusted.outcome == "fail"
    assert "certificate" in distrusted.detail


async def test_a_running_daemon_keeps_its_connection(broker: Mosquitto) -> None:
    config = config_for(broker)
    daemon = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=config.client_id)
    lost: list[object] = []
    daemon.on_disconnect = lambda *_: lost.append(_)
    daemon.connect(broker.host, broker.port)
    daemon.loop_start()
    try:
        await eventually(daemon.is_connected, what="the daemon's connection")
        check = await asyncio.to_thread(check_broker, config)
        assert check.outcome == "ok"
        await eventually(lambda: "doctor" in broker.log, what="the doctor in the broker's log")
        assert not lost
    finally:
        daemon.disconnect()
        daemon.loop_stop()


def test_a_state_directory_that_can_be_made_is_ok_and_is_not_made(tmp_path: Path) -> None:
    check = check_state_dir(tmp_path / "a" / "b")
    assert check.outcome == "ok"
    assert "can be created" in check.detail
    assert list(tmp_path.iterdir()) == []


def test_a_state_directory_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    check = check_state_dir(file / "state")
    assert check.outcome == "fail"
    assert "StateDirectory" in check.advice


@pytest.mark.parametrize(
    ("free_mib", "outcome"), [(15, "fail"), (17, "warn"), (255, "warn"), (257, "ok"), (100_000, "ok")]
)
def test_a_disk_that_is_filling_up_is_a_warning_and_a_full_one_a_failure(
    free_mib: int, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=free_mib * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    check = check_state_dir(tmp_path)
    assert check.outcome == outcome
    assert f"{free_mib * 2**20 / 1e9:.1f} GB free" in check.detail
    assert ("free some space" in check.advice) == (outcome != "ok")


def test_a_directory_beside_which_nothing_can_be_written_is_found_by_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is mounted to be read only: the folder is there and may be looked into."""

    def refuse(dir: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    check = check_state_dir(tmp_path / "state")
    assert (check.outcome, check.detail) == ("fail", f"{tmp_path} cannot be written: Read-only file system")


def test_a_state_directory_of_another_user_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As /var/lib/private, into which only root may look; root, who may run this, is refused nothing."""

    def refuse(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    service, own = check_state_dir(Path("/var/lib/private/ecg-edge")), check_state_dir(tmp_path / "ecg-edge")

    assert service.outcome == "warn"
    assert "sudo" in service.advice
    assert own.outcome == "fail"


def test_a_state_directory_that_is_not_there_yet_is_the_service_s_to_make(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("edge.daemon.doctor.tempfile.TemporaryFile", refuse)
    check = check_state_dir(Path("/var/lib/ecg-edge-that-is-not-here"))

    assert (check.outcome, check.detail.split()[0]) == ("warn", "/var/lib")


def test_an_old_sqlite_is_a_failure() -> None:
    assert check_sqlite().outcome == "ok"
    assert check_sqlite((3, 34, 1)).outcome == "fail"


def test_a_secret_that_only_the_service_is_given_is_looked_for_in_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    config = parse_config("[broker]\nusername = 'u'\npassword_credential = 'mqtt-password'", "a.toml", Path("/"))
    assert "journalctl" in check_broker(config).advice


def test_a_clock_nobody_keeps_is_a_warning_and_an_unknown_one_is_not() -> None:
    assert check_clock(lambda: False).outcome == "warn"
    assert check_clock(lambda: True).outcome == "ok"
    assert check_clock(lambda: None).outcome == "ok"
    assert "UTC" in check_clock().detail


def test_the_packages_of_a_device_are_all_there() -> None:
    check = check_packages()
    assert check.outcome == "ok", check.detail


def test_the_shipped_model_is_intact_and_runs() -> None:
    checks = {check.name: check for check in check_model(parse_config("", "test.toml", Path("/")))}
    assert {checks[name].outcome for name in ("bundle", "runtime onnxruntime", "speed")} == {"ok"}
    assert "ms for a hop" in checks["speed"].detail


def test_a_missing_bundle_is_a_failure() -> None:
    (check,) = check_model(parse_config("[model]\nbundle = '/nowhere'", "test.toml", Path("/")))
    assert (check.name, check.outcome) == ("bundle", "fail")
    assert "/nowhere" in check.detail


def test_the_command_exits_1_only_when_something_fails(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f"[node]\nstate_dir = 'state'\n[broker]\nport = {broker.port}\n")
    assert main(["doctor", "--config", str(file), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    outcomes = {check["name"]: check["outcome"] for check in result["checks"]}
    assert result["ok"]
    assert outcomes["broker"] == outcomes["speed"] == outcomes["state_dir"] == outcomes["runtime onnxruntime"] == "ok"
    broker.stop()
    assert main(["doctor", "--config", str(file)]) == 1
    assert "fail  broker" in capsys.readouterr().out


def test_a_faulty_configuration_is_a_finding_like_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[broker]\nprt = 1\n")
    assert main(["doctor", "--config", str(file), "--json"]) == 1
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert "did you mean port?" in checks["configuration"]["detail"]
    assert "broker" not in checks
