"""A sandbox for Python programs that nobody has read: standard library only, Linux first.

``client`` is the trusted side and the only module that the rest of the project imports. It starts
one ``launcher``, a small process that has given up its view of the file system. For each program
the launcher forks a ``keeper``, which makes the namespaces, and in them the first process
(``inside``), which drops what rights are left and runs one of three services:

* ``stdin_service``: the program once per input, each time in a forked child;
* ``call_service``: the program once, then calls of what it defines;
* ``judge_service``: test code of a data set against a program in another sandbox.

The modules use relative imports only, because the launcher loads them as a package of their own:
it must not import the project, which would bring torch along.
"""
