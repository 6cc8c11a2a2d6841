"""Libraries side by side: one worker process a candidate, each in the environment of its own library, working in turns.

task.py says what is measured, data.py makes what all candidates are given (activations and weights), candidates/ holds one file a library,
worker.py runs in a candidate's environment, processes.py talks to it, rounds.py takes turns and sums up, results.py keeps what came out.
Modules on the coordinator's side import the standard library alone.
"""
