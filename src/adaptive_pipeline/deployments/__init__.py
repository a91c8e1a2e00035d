"""What the stages of deployments share: the models at hand, the choice among them, and what is measured of each."""
