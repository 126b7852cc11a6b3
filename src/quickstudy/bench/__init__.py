"""Benchmarks: what a training step or an evaluation costs here, by hand, and in other libraries.

A case (`workloads`) is a model, a method, a number of tasks and of inner steps. A contender (`contenders`) is one way
to compute it: this library with some engine, a loop by hand (`plain`), or another library (`peers`, `jax_peer`). All
have one interface (`implementations`). Each contender has processes of its own (`worker`). Its float64 meta-gradient
is compared with this library's (`agreement`), and it has a turn in every round (`measure`). A suite (`suites`) says
which contenders compute which cases.
"""
