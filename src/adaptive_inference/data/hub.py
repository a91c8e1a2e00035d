"""Tables from a dataset of the Hugging Face hub, at a pinned revision."""

from __future__ import annotations

from typing import Any

from adaptive_inference.data.local import Table
from adaptive_inference.errors import UserError


def read_hub(hub_id: str, config: str | None, revision: str, split: str, label: str | None) -> Table:
    """Read one split; integer classes that the dataset names become these names.

    Parameters
    ----------
    hub_id, config, revision, split
        The dataset, its configuration, its commit, the split's name.
    label
        Column of classes, whose names are looked up; None: a column of scores.

    Raises
    ------
    UserError
        The hub cannot be reached, or has no such dataset, configuration, revision or split.
    """
    import datasets

    origin = f"{hub_id}{f'/{config}' if config else ''}@{revision[:12]}:{split}"
    try:
        rows = datasets.load_dataset(hub_id, config, split=split, revision=revision)
    except Exception as error:  # the library lets errors of half a dozen packages through
        raise UserError(_explain(origin, error)) from error
    table = list(rows.with_format(None))
    names = _names(rows.features.get(label)) if label else None
    if names is not None:  # the integers count in the dataset's order, which need not be that of `labels`
        for row in table:
            if isinstance(row[label], int) and 0 <= row[label] < len(names):  # -1: withheld
                row[label] = names[row[label]]
    return Table(origin, tuple(rows.column_names), table, names)


def _names(feature: Any) -> tuple[str, ...] | None:
    names = getattr(feature, "names", None)
    return tuple(name.strip() for name in names) if names else None


def _explain(origin: str, error: Exception) -> str:
    reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    chain: BaseException | None = error
    while chain is not None:
        if type(chain).__name__ in _UNREACHABLE:
            return (
                f"the hub cannot be reached for {origin} ({reason}); check the network, or download the files once, "
                "put them into data/ and use `source: local`"
            )
        chain = chain.__cause__ or chain.__context__
    return (
        f"the hub has not {origin} ({reason}); check `hub_id`, `hub_config`, `revision` and the split's name in "
        "`train` and `evaluation`"
    )


#: Names of what the hub's clients raise without a network (several packages define each).
_UNREACHABLE = frozenset(
    {"ConnectionError", "ConnectError", "ConnectTimeout", "ReadTimeout", "OfflineModeIsEnabled", "LocalEntryNotFoundError",
     "ProxyError", "SSLError", "TimeoutError", "gaierror", "MaxRetryError"}
)  # fmt: skip
