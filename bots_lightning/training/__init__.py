"""Training: the one LightningModule and the parts that it is made of."""
