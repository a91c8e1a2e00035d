"""The MLflow model: this file is its code, a model folder its artifact, and nothing of it is pickled.

MLflow runs the file where it loads the model; it needs `adaptive-inference` there, with this package and the extra of the
folder's deployment. What a request may hold beside texts and params is for MLflow's server to say: it drops what it does
not know (`app` refuses it).
"""

from __future__ import annotations

import warnings

from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.pyfunc import PythonModel, PythonModelContext

from adaptive_inference import load_predictor
from adaptive_inference.errors import UserError
from adaptive_pipeline.serving.request import read_options, read_rows
from adaptive_pipeline.serving.service import Service

# MLflow warns of a method without type hints, from which it would make another signature.
with warnings.catch_warnings(record=True):

    class ServedModel(PythonModel):
        """Texts in, answers out; see `service.told`."""

        def load_context(self, context: PythonModelContext) -> None:
            """Load the model folder, and measure its latency table."""
            self.service = Service(load_predictor(context.artifacts["model"]))

        def predict(self, context, model_input, params=None):  # noqa: ANN001, ANN201 - MLflow would take hints for a signature
            """Answer the rows of a data frame with the task's text columns.

            Raises
            ------
            MlflowException
                Of status 400: a text or an option cannot be used.
            """
            try:
                texts = read_rows(model_input.to_dict("records"), self.service.schema)
                options = read_options(params)
                return [self.service.submit(text, options).result() for text in texts]
            except UserError as error:
                raise MlflowException(str(error), error_code=BAD_REQUEST) from None


set_model(ServedModel())
