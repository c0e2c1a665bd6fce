"""The audit log: who asked for what, durable before it is done, chained so that a change shows.

The writer process (`writer`) alone holds the log; everyone else asks it over its socket (`client`, `aio`).
Nothing here imports more than the standard library, so that the writer stays small.
"""
