"""The bar that a training shows on a terminal."""

import logging
import sys
from types import SimpleNamespace

from adaptive_inference.training.pace import QuietBar


def test_what_is_said_at_an_epochs_end_stands_on_a_line_of_its_own(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    bar, state = QuietBar(), SimpleNamespace(is_world_process_zero=True, max_steps=4, global_step=2)
    bar.on_train_begin(None, state, None)
    bar.on_step_end(None, state, None)
    bar.on_epoch_end(None, state, None)
    logging.StreamHandler(sys.stderr).handle(logging.makeLogRecord({"msg": "epoch 1 of 2"}))
    state.global_step = 4
    bar.on_step_end(None, state, None)
    bar.on_train_end(None, state, None)
    before, _, after = capsys.readouterr().err.partition("epoch 1 of 2\n")
    assert "0/4" in before
    assert before.endswith("\r")
    assert not before.rstrip("\r").rpartition("\r")[2].strip()
    assert "4/4" in after
