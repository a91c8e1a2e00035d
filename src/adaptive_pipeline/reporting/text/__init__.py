"""What is said in sentences: the recommendation, notes below tables."""
