"""What a series is made of, put together: variables, joins, covariates, entities, labels, selections."""
