"""What things cost, beside what they cost elsewhere.

A case (`workloads`) is a model, a method, a number of tasks and of inner steps. A contender (`contenders`) is one way
of computing it: this library under some engine, the loop one would write by hand (`plain`), or another library
(`peers`). Each contender has a process of its own (`worker`), is held to this library's meta-gradient in float64
(`agreement`), and takes its turn in every round (`measure`). A suite (`suites`) says which cases are met by whom.
"""
