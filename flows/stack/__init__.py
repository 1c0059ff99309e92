"""The embedded servers (S3, MLflow, Prefect) and how commands find them."""
