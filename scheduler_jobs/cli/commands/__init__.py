"""The commands, a folder for each section of `imagemill --help`.

A module is about one subject. Each command parses, calls one function and prints.
"""
