"""Tables, figures and the recommendation: pure functions of the records.

From below: `measures`, `frame` (records -> pandas), `breakdowns`, `statistics`, `text`, `tables`, `published`, `figures`,
`handout`, and on top `report`, which writes everything.
"""
