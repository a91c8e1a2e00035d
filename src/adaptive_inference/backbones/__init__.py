"""Pre-trained encoders, driven layer by layer through the stock transformers modules.

One file per architecture family, found by its ``model_type``: adding a family is adding a file.
"""
