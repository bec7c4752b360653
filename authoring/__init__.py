"""Programs that create the embedded model and dataset. Nothing else imports this package."""
