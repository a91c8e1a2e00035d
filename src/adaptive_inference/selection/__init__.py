"""Choose one model, rule and threshold among all methods, with a promise of what it loses on rows that were not seen."""
