"""What the stages that decode share: a method at hand, its times, its tokens."""
