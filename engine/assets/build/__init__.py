"""Programs that create the embedded model and data set. Nothing else imports this package."""
