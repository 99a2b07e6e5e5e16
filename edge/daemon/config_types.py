"""What the configuration's sections are built from: their base, kinds of values, defaults of this machine."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Annotated, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo


def _from_configuration_folder(path: Path, info: ValidationInfo) -> Path:
    """Take a relative path from the folder of the configuration file, not from wherever the daemon was started."""
    folder = (info.context or {}).get("folder", Path())
    if "\0" in str(path):
        raise ValueError("a path cannot have a null character in it")
    try:
        return Path(folder) / path.expanduser()
    except RuntimeError:
        raise ValueError("this user's home is not known; write the path out") from None


AnyPath = Annotated[Path, Field(strict=False), AfterValidator(_from_configuration_folder)]
Identifier = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]
CredentialName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Seconds = Annotated[float, Field(gt=0.0, le=86_400.0)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """Base of all sections: immutable, types taken literally, unknown keys and not-a-number refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def default_node_name() -> str:
    """Return the host's name as an identifier of the MQTT contract."""
    name = re.sub(r"[^a-z0-9_-]+", "-", socket.gethostname().split(".")[0].lower()).strip("-")
    return name[:64] or "edge"


def default_state_dir() -> Path:
    """Return the state directory systemd gives, else the one XDG's base directory specification names."""
    from_systemd = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    from_user = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(from_systemd) if from_systemd else Path(from_user) / "ecg-edge"


def section_in(annotation: object) -> type[Section] | None:
    """Return the section class in a field's type, also inside `X | None` and `dict[str, X]`; None if it has none."""
    arguments = get_args(annotation)
    if arguments:
        return next((found for argument in arguments if (found := section_in(argument))), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None
