"""The LightningModule, and what it trains with: losses, metrics, optimization, checkpoints, what ends a run."""
