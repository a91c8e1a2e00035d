"""Code of one's own that the params name: looked at before a run, and its digests noted where DVC sees them.

`NOTED` tells of each method and backbone which code it uses, with its sha256. Stages depend on their own keys of that file,
so an edit makes those stale that use the code, and no others. Stage `check_params` writes it, and Snakemake when it reads
its rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from adaptive_inference.by_name import CONSTANTS, canonical, is_file, is_own
from adaptive_inference.errors import UserError
from adaptive_inference.files import write_text
from adaptive_inference.own_code import digest_own_code, loaded_own_code
from adaptive_pipeline.params import Params

#: Where files of one's own lie: `check_params` depends on the whole folder.
FOLDER = Path("own_code")
NOTED = Path(".own_code.yaml")


@dataclass(frozen=True)
class Use:
    """A place in the params that may name code of one's own."""

    where: str  #: its dotted key
    owner: str  #: method or backbone
    kind: str  #: a key of `by_name.CONSTANTS`
    name: str  #: what stands there

    @property
    def source(self) -> str:
        """The name without the options of a rule, code of one's own as it is noted."""
        name = self.name.partition("(")[0].strip()
        return canonical(name) if is_own(name) else name


def uses(params: Params) -> Iterator[Use]:
    """Return every place where the params name an objective, a rule or an adapter."""
    for name, method in params.methods.items():
        yield Use(f"methods.{name}.train.objective", name, "objectives", method.train.objective)
        for rule in method.rules:
            yield Use(f"methods.{name}.rules", name, "exit_rules", rule)
    for name, backbone in params.backbones.items():
        yield Use(f"backbones.{name}.adapter", name, "backbones", backbone.adapter or "")


def check(use: Use, params: Params) -> None:
    """Load the code of one's own that is named at a place, if it is one's own.

    Raises
    ------
    UserError
        The file is missing, outside `FOLDER`, fails or gives something else; or an objective needs the full model and is
        trained by a stage that does not read it; or saliencies, likewise.
    """
    if not is_own(use.source):
        if use.kind == "backbones" and use.name:
            raise UserError(
                f"{use.name!r} is no code of one's own; give a file, {FOLDER}/NAME.py, or package.module"
            )
        return
    path = Path(use.source)
    if is_file(use.source) and (path.parts[0] != FOLDER.name or ".." in path.parts):
        raise UserError(
            f"{use.source!r} lies outside {FOLDER}/, the folder in which DVC sees edits; move or link the file there"
        )
    if use.kind == "exit_rules":
        from adaptive_inference.exit_rules import load_rules

        load_rules([use.name])
    elif use.kind == "backbones":
        from adaptive_inference.backbones.load import load_adapter  # and torch with it

        load_adapter(use.source)
    else:
        from adaptive_inference.objectives import load_objective

        objective = load_objective(use.name, params.method(use.owner).train)
        stages = params.trained_by
        if objective.needs_saliency and use.owner not in stages.train_adapler:
            raise UserError(f"{use.name} needs saliencies; list the method under trained_by.train_adapler")
        given_full = (*stages.train_leebert, *stages.train_adapler)
        if objective.needs_full == "fine_tuned" and use.owner not in given_full:
            raise UserError(
                f"{use.name} needs the full model; list the method under trained_by.train_leebert"
            )


def note(params: Params, file: Path = NOTED) -> None:
    """Write `NOTED`: for what -> whose -> code of one's own -> its digest, or null."""
    noted: dict[str, dict[str, dict[str, str] | None]] = {kind: {} for kind in CONSTANTS}
    for use in uses(params):
        of = noted[use.kind].setdefault(use.owner, None)
        if is_own(use.source):
            noted[use.kind][use.owner] = (of or {}) | {use.source: digest_own_code(use.source)}
    text = "# Written by check_params: code of one's own that methods and backbones use, by its sha256.\n"
    text += yaml.safe_dump(noted)
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        write_text(file, text)


def check_loaded(file: Path = NOTED) -> dict[str, str]:
    """Return the digests of the code of one's own that was loaded, which must be what `note` wrote and what lies there now.

    DVC takes a stage's result for that of the code that is noted.

    Raises
    ------
    UserError
        A file was edited since it was noted, or since it was loaded.
    """
    found = loaded_own_code()
    noted = yaml.safe_load(file.read_text(encoding="utf-8")) if found and file.is_file() else {}
    known = {
        source: digest
        for by_owner in noted.values()
        for of in by_owner.values()
        for source, digest in (of or {}).items()
    }
    for source, digest in found.items():
        if digest != digest_own_code(source) or digest != known.get(source, digest):
            raise UserError(
                f"{source} was edited after this run began, so no result of it is kept; start the run again, and edit "
                "between runs (a stage by hand: first `dvc repro check_params`)"
            )
    return found
