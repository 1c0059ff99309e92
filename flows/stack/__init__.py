"""The embedded servers (S3, MLflow, Prefect) and how commands find them.

environment       which servers a command uses: the user's, the embedded ones, or files and a temporary server
stack             up, down and status of the embedded servers
servers           how each server is started, and when it is ready; MLflow's SQLite file
processes         environment, logs, locks and ports of server processes
credentials       their passwords and keys
prefect_server    the Prefect server: the stack's, and the temporary one of a single command
"""
