"""Prefect flows, the command line and the embedded servers: the top floor, where everything is wired together.

cli.py, registry_cli.py   what a person types; command.py: how commands start, answer and fail
environment.py            which servers a command uses
stack.py                  the embedded servers: servers.py how each is started, processes.py, credentials.py
preprocess.py             sources → shards
train.py                  shards → trained ranks; nodes.py, train_node.py on several machines; register.py → version
watch.py                  what a person sees of a training; course.py what is known of it
evaluate.py               version, shards → metrics; compare.py two versions on the same images;
                          assess.py a version against gate and champion
segment.py                photographs → masks
retrain.py                what the schedule runs
demo.py                   the whole way: whole_way.py the flow, demo_report.py its page
console.py, runners.py    progress for people; where mapped tasks run
"""
