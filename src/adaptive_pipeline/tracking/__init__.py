"""MLflow as a view of the records: live while a stage runs, or later from what it left.

A record gives one run, found by its ``record_id``; both ways write the same parameters, metrics, curves and files,
because both end in `Store.complete`. Nothing is ever read back from MLflow, so deleting the store loses nothing.
"""
