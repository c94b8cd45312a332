"""From a trained model to the items to show."""
