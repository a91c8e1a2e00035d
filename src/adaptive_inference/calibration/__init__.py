"""What is fitted on the calibration split: temperatures, certainty ranges, operating points."""
