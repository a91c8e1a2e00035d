"""What a command line, a rule, a calibration and a predictor load: neither torch nor the tools of the experiment."""

import subprocess
import sys
from pathlib import Path

import pytest
from saved_generators import save_tiny

import adaptive_inference
from adaptive_inference import load_generator, load_predictor

PACKAGE = Path(adaptive_inference.__file__).parent
SAVED = Path(__file__).parent / "saved_models/format1"
#: What `pip install 'adaptive-inference[torch]'` does not bring, and our own other package.
NOT_DEPLOYED = (
    "accelerate", "datasets", "pyarrow", "scipy", "sklearn",
    "adaptive_pipeline", "dvc", "matplotlib", "mlflow", "pandas", "psutil", "ruamel", "snakemake",
)  # fmt: skip
#: Files that are meant to load torch, imported when a model is.
WITH_TORCH = ("engine.torch_runner",)


def light_modules():
    names = [
        "exits.layout",
        "serving.card",
        "serving.confidences",
        "serving.export",
        "serving.hub",
        "serving.predictor",
    ]
    names += ["serving.recalibrate", "serving.setting", "serving.generator", "serving.generator_card"]
    names += ["serving.generator_dir", "serving.generator_export"]
    for folder in ("cli", "engine", "exit_rules", "calibration"):
        names += [f"{folder}.{file.stem}" for file in sorted((PACKAGE / folder).glob("*.py"))]
    names = [name.removesuffix(".__init__") for name in names]
    return [f"adaptive_inference.{name}" for name in names if name not in (*WITH_TORCH, "cli.__main__")]


def run_blocked(code, *blocked):
    """Run code in a process in which some packages cannot be imported."""
    lines = ["import sys", *(f"sys.modules[{name!r}] = None" for name in blocked), code]
    return subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=120
    )


def test_rules_calibration_command_line_and_predictor_need_no_torch():
    code = "import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in light_modules())
    done = run_blocked(code, "torch", "transformers")
    assert done.returncode == 0, done.stderr


def test_the_server_loads_nothing_of_the_experiment_and_torch_with_a_model_only():
    others = [name for name in NOT_DEPLOYED if name != "adaptive_pipeline"]
    done = run_blocked("import adaptive_pipeline.serving.app", "torch", "transformers", *others)
    assert done.returncode == 0, done.stderr


def test_a_saved_model_answers_where_neither_training_nor_the_experiment_is_installed():
    texts, home = ["a truly lovely film", "no"], str(SAVED / "model")
    code = f"from adaptive_inference import load_predictor\nprint(load_predictor({home!r}).predict({texts!r}, 2).labels)"
    done = run_blocked(code, *NOT_DEPLOYED)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{load_predictor(home).predict(texts, 2).labels}\n"


def test_a_saved_decoder_writes_where_neither_training_nor_the_experiment_is_installed(tmp_path):
    home = str(save_tiny(tmp_path))
    code = (
        "from adaptive_inference import load_generator\n"
        f"print(load_generator({home!r}).generate(['w1 w2', 'w3'], 'verify', 0.5, batch_size=2)[1].text)"
    )
    done = run_blocked(code, *NOT_DEPLOYED)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{load_generator(home).generate(['w3'], 'full')[0].text}\n"


def test_the_package_itself_loads_nothing_and_an_unknown_name_is_none_of_it():
    code = (
        "import adaptive_inference\nassert 'load_predictor' in adaptive_inference.__all__\n"
        "assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)\nadaptive_inference.nothing"
    )
    done = run_blocked(code)
    assert "AttributeError: module 'adaptive_inference' has no attribute 'nothing'" in done.stderr


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_predicting_without_torch_says_what_to_install(name):
    home = str(SAVED / "model")
    code = f"from adaptive_inference.cli import main\nraise SystemExit(main(['predict', {home!r}]))"
    done = run_blocked(code, name)
    assert done.returncode == 2
    assert done.stderr == f"error: predict needs {name}; pip install 'adaptive-inference[torch]'\n"


def test_parquet_without_its_reader_says_what_to_install(tmp_path):
    (tmp_path / "rows.parquet").touch()
    asked = ["predict", str(SAVED / "model"), str(tmp_path / "rows.parquet")]
    code = f"from adaptive_inference.cli import main\nraise SystemExit(main({asked!r}))"
    done = run_blocked(code, "pyarrow")
    assert done.returncode == 2
    assert done.stderr == "error: predict needs pyarrow; pip install 'adaptive-inference[train]'\n"
