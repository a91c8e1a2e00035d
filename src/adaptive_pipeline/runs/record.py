"""A record of what a stage did: deterministic JSON, identified by what the stage was given; its families are in `records`.

A stage folder holds ``metrics.json`` (one of these models) and, where it trains, ``history.jsonl``. Neither holds times,
host names, absolute paths or run ids, so two runs of the same stage give the same bytes. Whatever depends on the clock
goes to a separate timings file (see `digests.TIMING_OUTPUTS`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adaptive_inference.errors import UserError
from adaptive_inference.files import digest_json, plain, read_json, write_json
from adaptive_pipeline.grid import Cell

#: Of the form of all records; a file of another version is refused.
VERSION = 2
RECORD_FILE = "metrics.json"


class Part(BaseModel):
    """A part of a record: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


class Record(Part):
    """What every stage was given, and the plain figures that it gives.

    Attributes
    ----------
    params
        Dotted key -> value, as `Params.echo` gives them.
    inputs
        Name of each input -> its digest.
    code
        Digest of the script and the modules that it imported.
    metrics
        Deterministic figures by name; null: not measured.
    """

    version: Literal[2] = VERSION
    stage: str
    cell: Cell
    params: dict[str, Any]
    inputs: dict[str, str]
    code: str
    metrics: dict[str, float | int | None] = Field(default_factory=dict)

    @property
    def params_digest(self) -> str:
        """Digest of the params alone: a kept result holds while it equals the preset's."""
        return digest_params(self.params)

    @property
    def record_id(self) -> str:
        """Digest of stage, cell, params, code and inputs: equal ids mean the same work."""
        cell = self.model_dump(include={"cell"})["cell"]
        return digest_json([self.stage, cell, self.params_digest, self.inputs, self.code])[:16]

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``: checked, plain, and null for what is not finite."""
        checked = type(self).model_validate(plain(self.model_dump(warnings=False)))
        ids = {"record_id": self.record_id, "params_digest": self.params_digest}
        return checked.model_dump(mode="json") | ids

    def save(self, folder: Path) -> None:
        """Write ``metrics.json`` into the stage's folder."""
        write_json(folder / RECORD_FILE, self.to_json())

    @classmethod
    def from_json(cls, body: dict[str, Any], origin: str) -> Self:
        """Read what `to_json` gave: a record of the stage's own family.

        Raises
        ------
        UserError
            It is of another version or shape; names ``origin``.
        """
        if body.get("version") != VERSION:
            raise UserError(
                f"{origin} is a record of version {body.get('version', 1)}, this code reads {VERSION}; run its stage again"
            )
        given = {key: value for key, value in body.items() if key not in ("record_id", "params_digest")}
        family = FAMILIES.get(str(body.get("stage")), Record)
        try:
            return family.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(f"{origin} is no record of this project ({where}: {first['msg']})") from error

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; see `from_json`."""
        file = folder / RECORD_FILE
        return cls.from_json(read_json(file), str(file))


#: Stage -> its model; filled in `records`, where all of them are.
FAMILIES: dict[str, type[Record]] = {}


def digest_params(params: dict[str, Any]) -> str:
    """Return the digest of `Params.echo`'s answer; keys that hold their default do not count."""
    return digest_json({key: value for key, value in params.items() if value is not None})
