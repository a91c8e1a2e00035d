"""Tables, figures, recommendation and model card: pure functions of the stages' records, without torch."""
