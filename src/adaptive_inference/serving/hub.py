"""Models on a model hub: fetched by their id, published from a folder. Loads no torch."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from adaptive_inference.errors import UserError, first_line
from adaptive_inference.exits.deployment import (
    DEPLOYMENT_FILE,
    is_deployment,
    open_deployment,
    segment_file,
)
from adaptive_inference.exits.layout import CALIBRATION_FILE, CONFIG_FILE, MULTI_MODEL, SavedModel, open_model
from adaptive_inference.serving.card import CARD_FILE
from adaptive_inference.serving.export import has_weights
from adaptive_inference.serving.onnx_model import FLOPS_FILE
from adaptive_inference.tasks.schema import SCHEMA_FILE

#: All that a model folder is made of. Nothing else of a repository is fetched: no pickle, no code.
MODEL_FILES = ("*.json", "*.safetensors", "*.onnx", "vocab.txt", "merges.txt", "*.model")
#: Names that saving a model gives its files, those of every tokenizer family among them. Nothing else is published: a
#: folder is its user's too, and may hold rows of theirs.
_SAVED_FILES = (
    CONFIG_FILE, "model.safetensors", SCHEMA_FILE, CALIBRATION_FILE,
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "spm.model", "tokenizer.model",
    "sentencepiece.bpe.model",
)  # fmt: skip
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def model_folder(name: str | Path, revision: str | None = None) -> Path:
    """Return a model's folder, fetched from a hub where ``name`` is an id of one.

    Parameters
    ----------
    name
        A folder, or an id, ``OWNER/NAME``. A `Path` is always a folder; so is a name whose first part is one here.
    revision
        Of an id: the commit, branch or tag to take. Only a commit stays what it is. Default: the newest.

    Raises
    ------
    UserError
        The hub has no such model or revision or cannot be reached, or a revision is given for a folder.
    """
    if isinstance(name, Path) or not _ID.fullmatch(name) or Path(name.partition("/")[0]).is_dir():
        if revision is not None:
            raise UserError(
                f"revision {revision!r} goes with a hub's id, and {str(name)!r} names a folder; leave it out"
            )
        return Path(name)
    from huggingface_hub import snapshot_download

    with _explained(name, f"{name!r} is no folder here, and the hub"):
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(MODEL_FILES)))


def push_to_hub(folder: str | Path, repo_id: str, private: bool = False) -> str:
    """Publish an exported model's folder as a model of a hub.

    Parameters
    ----------
    folder
        As `export` or a results folder holds it, card included.
    repo_id
        ``OWNER/NAME``; made where it is not there, else its files are replaced in a new commit.
    private
        Make it readable for its owner alone; refused for one that is there and public.

    Returns
    -------
    str
        The address of the commit.

    Raises
    ------
    UserError
        The folder is no exported model, or the hub refuses or cannot be reached.
    """
    folder = Path(folder)
    saved = open_model(folder)
    if saved.home != folder or not (folder / CARD_FILE).is_file() or not has_weights(folder):
        raise UserError(
            f"{folder} is no exported model with weights and a card; make one: adaptive-inference export {folder} OUT"
        )
    if not _ID.fullmatch(repo_id):
        raise UserError(f"{repo_id!r} is no hub id; give OWNER/NAME, e.g. my-name/tickets")
    from huggingface_hub import HfApi

    api = HfApi()
    with _explained(repo_id, "the hub"):
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        if private and not api.model_info(repo_id).private:
            raise UserError(
                f"{repo_id} is there and public; make it private on the hub first, or take another name"
            )
        done = api.upload_folder(
            folder_path=folder,
            repo_id=repo_id,
            allow_patterns=published(saved),
            commit_message="Upload an adaptive-inference model",
        )
    return done.commit_url


def published(saved: SavedModel) -> list[str]:
    """Return the paths, below a model's folder, of all that belongs to it, whether or not it is there."""
    graphs = []
    if is_deployment(saved.home):
        cuts = open_deployment(saved.home, saved.config, saved.calibration).cuts
        graphs = [DEPLOYMENT_FILE, FLOPS_FILE, *map(segment_file, range(len(cuts)))]
    members = saved.config["exits"] if saved.config["kind"] == MULTI_MODEL else []
    return [
        CARD_FILE,
        *graphs,
        *_SAVED_FILES,
        *(f"{layer}/{name}" for layer in members for name in _SAVED_FILES),
    ]


@contextlib.contextmanager
def _explained(repo_id: str, subject: str) -> Iterator[None]:
    """Tell what a hub's client raises as a sentence; ``subject`` is who has or refuses something."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalTokenNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    login = "log in (`hf auth login`, or the variable HF_TOKEN)"
    try:
        yield
    except UserError:
        raise
    except RevisionNotFoundError as error:
        raise UserError(f"the hub's {repo_id} has no such revision; give one of its commits") from error
    except (GatedRepoError, LocalTokenNotFoundError) as error:
        raise UserError(f"{subject} shows {repo_id} to those alone who are let in; {login}") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{subject} has no model {repo_id!r} that you may see; check the name, or {login}"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        fix = f"{login} with a token that may write to it" if status in (401, 403) else "try again later"
        raise UserError(
            f"{subject} refuses {repo_id} (status {status}: {first_line(error)}); {fix}"
        ) from error
    except (
        Exception
    ) as error:  # connection, proxy, time-out, offline mode: the kinds change with the http client
        raise UserError(
            f"{subject} cannot be used for {repo_id} ({type(error).__name__}: {first_line(error)}); check the network, "
            "or copy the model's folder by other means"
        ) from error
