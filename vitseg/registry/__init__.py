"""The tracking server and the model registry: the only code that imports MLflow.

tracking           runs: parameters, metrics, pictures
metric_upload      a training's metrics, uploaded in the background
system_metrics     CPU, memory, disk, network and GPUs of the machine that trains
mlflow_request     how often requests are tried, and what is raised when they fail

names              what a registered model, an alias and an address may be called
versions           bundles become registered versions and come back, checked by their hash
flavor             the former name of inference/pyfunc, by which MLflow loads older versions
provenance         how a version came to be
training_summary   how its training went: a version's first description

comparison         two models on the same images: differences with intervals
gate               the rules that a version must satisfy, and its verdict in the version's tags
review_page        what a reviewer reads; markdown: its tables; review_examples: the images that a reviewer looks at
promotion          what a reviewer decides: promote, reject, roll back; moves the alias `champion`
team               who may train and who may promote
"""
