"""One trainer for all objectives, on `transformers.Trainer`; a killed run resumes bit by bit."""
